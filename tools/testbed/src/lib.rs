//! Starts, stops, kills and pauses the real servers that the tests and the demo run on.
