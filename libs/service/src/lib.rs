//! What every process needs: telemetry, health, metrics endpoint, shutdown.
