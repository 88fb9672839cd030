//! Placement of shards on the nodes of a Redis Cluster.

/// Hash slots of a Redis Cluster.
const SLOTS: usize = 16384;

/// The hash tag of a shard: the first candidate whose slot lies in the shard's part of all slots, so that nodes with
/// equal slot ranges have equally many shards.
///
/// ```
/// assert_eq!(couponry_shard_model::throughput::tag("summer", 0, 1), "summer");
/// ```
#[must_use]
pub fn tag(event: &str, shard: usize, shards: usize) -> String {
    if shards == 1 {
        return event.to_owned();
    }
    let is_in_part = |tag: &String| slot(tag) * shards / SLOTS == shard;
    (0..u32::MAX).map(|i| format!("{event}/{shard}.{i}")).find(is_in_part).unwrap_or_default()
}

/// The largest number of shards on one of `nodes` nodes with equal slot ranges: with the plain tag `event/shard`, and
/// with [`tag`].
#[must_use]
pub fn most_on_a_node(event: &str, shards: usize, nodes: usize) -> (usize, usize) {
    let most = |tag: &dyn Fn(usize) -> String| {
        let mut counts = vec![0; nodes];
        (0..shards).for_each(|shard| counts[slot(&tag(shard)) * nodes / SLOTS] += 1);
        counts.into_iter().max().unwrap_or_default()
    };
    (most(&|shard| format!("{event}/{shard}")), most(&|shard| tag(event, shard, shards)))
}

/// CRC-16/XMODEM, as specified by Redis Cluster.
fn slot(tag: &str) -> usize {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_matches_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
    }

    #[test]
    fn chosen_tags_spread_shards_evenly() {
        for (shards, nodes) in [(2, 2), (16, 16), (16, 8), (32, 16)] {
            assert_eq!(most_on_a_node("summer", shards, nodes).1, shards / nodes);
        }
    }
}
