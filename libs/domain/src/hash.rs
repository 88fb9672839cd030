//! The hash function that Redis has too.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::hex::hex;

/// A hash of the text that can be computed only with the key, as 40 hexadecimal digits. `issue.lua` computes the same
/// one, with the only hash function of Redis: that SHA-1 has collisions does not help to find an input whose key is
/// secret, and the second pass prevents that a hash is extended to that of a longer text.
pub(crate) fn keyed_sha1(key: &str, text: &str) -> String {
    let sha1 = |text: &str| hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref());
    let inner = sha1(&format!("{key}{text}"));
    sha1(&format!("{key}{inner}"))
}
