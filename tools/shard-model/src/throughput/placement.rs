//! Which node a shard is on: slots of a Redis Cluster.

/// Slots of a cluster.
const SLOTS: usize = 16384;

/// The hash tag of a shard: the first one whose slot is in this shard's part of all slots, so that nodes with equal parts have
/// equally many shards.
///
/// ```
/// assert_eq!(couponry_shard_model::throughput::tag("summer", 0, 1), "summer");
/// ```
#[must_use]
pub fn tag(event: &str, shard: usize, shards: usize) -> String {
    if shards == 1 {
        return event.to_owned();
    }
    let is_placed = |tag: &String| slot(tag) * shards / SLOTS == shard;
    (0..u32::MAX).map(|i| format!("{event}/{shard}.{i}")).find(is_placed).unwrap_or_default()
}

/// How many of `shards` shards are on the node that has most of them, when there are `nodes` with equal parts of the slots: with the
/// plain tag `event/shard`, and with [`tag`].
#[must_use]
pub fn most_on_a_node(event: &str, shards: usize, nodes: usize) -> (usize, usize) {
    let most = |tag: &dyn Fn(usize) -> String| {
        let mut counts = vec![0; nodes];
        (0..shards).for_each(|shard| counts[slot(&tag(shard)) * nodes / SLOTS] += 1);
        counts.into_iter().max().unwrap_or_default()
    };
    (most(&|shard| format!("{event}/{shard}")), most(&|shard| tag(event, shard, shards)))
}

/// CRC-16/XMODEM, as the cluster specification says.
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
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
    }

    #[test]
    fn each_node_has_equally_many_shards() {
        for (shards, nodes) in [(2, 2), (16, 16), (16, 8), (32, 16)] {
            assert_eq!(most_on_a_node("summer", shards, nodes).1, shards / nodes);
        }
    }
}
