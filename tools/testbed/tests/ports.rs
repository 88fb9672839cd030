//! Ports are not handed out twice, also not to processes side by side.

use std::collections::HashSet;

#[test]
fn ports_drawn_side_by_side_differ() {
    let draw = || (0..50).map(|_| couponry_testbed::ports::free().unwrap()).collect::<Vec<_>>();
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
    let ports: Vec<u16> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 200);
}
