//! Concurrent allocations of ports.

use std::collections::HashSet;

#[test]
fn concurrently_allocated_ports_differ() {
    let allocate = || (0..50).map(|_| couponry_testbed::ports::free().unwrap()).collect::<Vec<_>>();
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(allocate)).collect();
    let ports: Vec<u16> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 200);
}
