//! Scheduling tables: whose turn it is, precomputed for the XDP program, which only picks a slot.
//!
//! All functions are pure: the same backends give the same table on every node.

use std::net::{IpAddr, SocketAddr};

use weir_l4_common::service::{MAGLEV_SLOTS, Pick};
use weir_model::{HashKey, Pool, Scheduler};

/// A round robin longer than this is shortened by scaling the weights, unless there are more backends than an eighth
/// of it: 8 KiB of the `SCHEDULE` map.
const TURNS: u64 = 4096;
/// The longest round robin of all.
const TURNS_MAX: u64 = 65_536;

/// A backend that takes new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its number in the map `BACKENDS`.
    pub(crate) number: u16,
    /// What places it in a Maglev table: the same on every node, which the number is not.
    pub(crate) address: SocketAddr,
    /// Above 0 where it takes new work; only its ratio to the others' counts.
    pub(crate) weight: u32,
}

/// How the program picks a slot of a pool's table.
pub(crate) fn pick(pool: &Pool) -> Pick {
    match (pool.scheduler, &pool.hash) {
        (Scheduler::RoundRobin, _) => Pick::Next,
        (Scheduler::LeastConn, _) => Pick::LeastLoaded,
        (Scheduler::P2c, _) => Pick::TwoChoices,
        (Scheduler::SourceHash | Scheduler::Maglev, Some(HashKey::AddressPort))
        | (Scheduler::Maglev, None) => Pick::HashAddressPort,
        // Parts of requests are not seen here; the config has no pool that hashes them for XDP.
        (Scheduler::SourceHash | Scheduler::Maglev, _) => Pick::HashAddress,
    }
}

/// The backends' numbers in the order of the slots; empty without members.
pub(crate) fn table(pick: Pick, members: &[Member]) -> Vec<u16> {
    match pick {
        Pick::Next | Pick::TwoChoices => round_robin(members),
        Pick::LeastLoaded => members.iter().map(|member| member.number).collect(),
        Pick::HashAddress | Pick::HashAddressPort => maglev(members),
    }
}

/// The slots that [`table`] will return.
pub(crate) fn table_len(pick: Pick, members: &[Member]) -> u32 {
    match pick {
        _ if members.is_empty() => 0,
        Pick::Next | Pick::TwoChoices => turns(members).iter().sum(),
        Pick::LeastLoaded => members.len() as u32,
        Pick::HashAddress | Pick::HashAddressPort => MAGLEV_SLOTS,
    }
}

/// Turns of each member in one round: its weight, with what all weights have in common divided out, and scaled down
/// where the round would be too long. Scaling rounds to whole turns and leaves every member at least one.
fn turns(members: &[Member]) -> Vec<u32> {
    let common = members
        .iter()
        .fold(0, |common, member| gcd(common, member.weight))
        .max(1);
    let weights = members.iter().map(|member| member.weight / common);
    let total: u64 = weights.clone().map(u64::from).sum();
    let limit = (8 * members.len() as u64).clamp(TURNS, TURNS_MAX);
    if total <= limit {
        return weights.collect();
    }
    weights
        .map(|weight| ((u64::from(weight) * limit + total / 2) / total).max(1) as u32)
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Smooth weighted round robin as in nginx (`ngx_http_upstream_get_peer`), one round long: in each step every
/// candidate gains its weight, the richest has its turn and pays the sum. The candidates are the groups of equal
/// weight, and a group's members take its turns in order: the work is turns × distinct weights, not turns × members.
fn round_robin(members: &[Member]) -> Vec<u16> {
    let turns = turns(members);
    let mut groups: Vec<Group> = Vec::new();
    for (member, &turns) in members.iter().zip(&turns) {
        match groups.iter_mut().find(|group| group.turns == turns) {
            Some(group) => group.numbers.push(member.number),
            None => groups.push(Group {
                turns,
                numbers: vec![member.number],
                next: 0,
                credit: 0,
            }),
        }
    }
    let total: i64 = turns.iter().map(|&turns| i64::from(turns)).sum();
    let mut round = Vec::with_capacity(total as usize);
    for _ in 0..total {
        for group in &mut groups {
            group.credit += i64::from(group.turns) * group.numbers.len() as i64;
        }
        // Of equally rich ones the first: `max_by_key` would take the last.
        let Some(group) = groups.iter_mut().rev().max_by_key(|group| group.credit) else {
            break;
        };
        group.credit -= total;
        round.push(group.numbers[group.next]);
        group.next = (group.next + 1) % group.numbers.len();
    }
    round
}

/// Members with the same number of turns.
struct Group {
    turns: u32,
    numbers: Vec<u16>,
    next: usize,
    credit: i64,
}

/// A Maglev table (Eisenbud et al., NSDI 2016, section 3.4): in turn, each member takes the next free slot of its own
/// permutation of all slots. Weights set how often a member has its turn.
fn maglev(members: &[Member]) -> Vec<u16> {
    const SLOTS: u64 = MAGLEV_SLOTS as u64;
    let Some(heaviest) = members.iter().map(|member| u64::from(member.weight)).max() else {
        return Vec::new();
    };
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.address);
    let mut walks: Vec<Walk> = members.iter().map(Walk::new).collect();
    let mut table = vec![0u16; SLOTS as usize];
    let mut taken = vec![false; SLOTS as usize];
    let mut free = SLOTS;
    let mut round = 0;
    loop {
        round += 1;
        for (member, walk) in members.iter().zip(&mut walks) {
            // The heaviest has one turn a round, the others their share of one.
            if walk.turns * heaviest >= round * u64::from(member.weight) {
                continue;
            }
            walk.turns += 1;
            while std::mem::replace(&mut taken[walk.slot as usize], true) {
                walk.slot = (walk.slot + walk.skip) % SLOTS;
            }
            table[walk.slot as usize] = member.number;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// Where a member is in its permutation of the slots.
struct Walk {
    slot: u64,
    skip: u64,
    turns: u64,
}

impl Walk {
    fn new(member: &Member) -> Self {
        let slots = u64::from(MAGLEV_SLOTS);
        let port = u64::from(member.address.port());
        let hash = match member.address.ip() {
            IpAddr::V4(address) => mix(u64::from(u32::from(address)) << 16 | port),
            IpAddr::V6(address) => {
                let address = u128::from(address);
                mix(mix((address >> 64) as u64) ^ mix(address as u64 ^ port << 48))
            }
        };
        // The number of slots is a prime, so every skip visits all of them.
        Self {
            slot: hash % slots,
            skip: mix(hash) % (slots - 1) + 1,
            turns: 0,
        }
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn members(weights: &[u16]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| Member {
                number: i as u16 + 1,
                address: SocketAddr::from((Ipv4Addr::from(0x0a00_0001 + i as u32), 8080)),
                weight: weight.into(),
            })
            .collect()
    }

    fn counts(table: &[u16]) -> HashMap<u16, u32> {
        let mut counts = HashMap::new();
        for &number in table {
            *counts.entry(number).or_default() += 1;
        }
        counts
    }

    #[test]
    fn round_robin_takes_turns_smoothly() {
        let check = |weights: &[u16], expected: &[u16]| {
            assert_eq!(
                table(Pick::Next, &members(weights)),
                expected,
                "weights {weights:?}"
            );
        };
        check(&[], &[]);
        check(&[7], &[1]);
        check(&[1, 1, 1], &[1, 2, 3]);
        check(&[10, 10], &[1, 2]);
        check(&[2, 1], &[1, 2, 1]);
        check(&[3, 1], &[1, 1, 2, 1]);
        check(&[5, 1, 1], &[1, 2, 1, 1, 1, 3, 1]);
        check(&[4, 2, 2], &[1, 2, 1, 3]);
    }

    #[test]
    fn long_rounds_keep_every_share_within_one_in_a_thousand() {
        let weights = [1000, 999, 997, 991, 983, 977, 971, 1];
        let total: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
        let table = table(Pick::Next, &members(&weights));
        assert!(table.len() <= 4096 + weights.len());
        for (number, count) in counts(&table) {
            let share = f64::from(count) / table.len() as f64;
            let wanted = f64::from(weights[usize::from(number) - 1]) / f64::from(total);
            assert!(
                (share - wanted).abs() < 0.001,
                "backend {number} has {share}, wants {wanted}"
            );
        }
    }

    #[test]
    fn no_round_is_longer_than_its_bound() {
        let weights: Vec<u16> = (0..60_000).map(|i| i % 1000 + 1).collect();
        let members = members(&weights);
        let table = table(Pick::Next, &members);
        assert!(table.len() < 2 * TURNS_MAX as usize);
        assert_eq!(counts(&table).len(), members.len());
        assert_eq!(table.len() as u32, table_len(Pick::Next, &members));
    }

    proptest! {
        #[test]
        fn round_robin_gives_every_weight_exactly(weights in prop::collection::vec(1u16..=100, 1..40)) {
            let table = table(Pick::Next, &members(&weights));
            let common = weights.iter().fold(0, |common, &weight| gcd(common, u32::from(weight)));
            let counts = counts(&table);
            for (i, &weight) in weights.iter().enumerate() {
                prop_assert_eq!(counts[&(i as u16 + 1)], u32::from(weight) / common);
            }
        }

        /// In no window has a member much more, or much less, than its share.
        #[test]
        fn round_robin_is_even_in_every_window(
            weights in prop::collection::vec(1u16..=20, 1..12),
            start in 0usize..1000,
            length in 1usize..200,
        ) {
            let table = table(Pick::Next, &members(&weights));
            let turns = turns(&members(&weights));
            let window: Vec<u16> = (start..start + length).map(|i| table[i % table.len()]).collect();
            let counts = counts(&window);
            for (i, &turns) in turns.iter().enumerate() {
                let share = f64::from(turns) * length as f64 / table.len() as f64;
                let count = f64::from(counts.get(&(i as u16 + 1)).copied().unwrap_or(0));
                prop_assert!((count - share).abs() <= 3.0, "backend {}: {} turns, share {}", i + 1, count, share);
            }
        }
    }

    #[test]
    fn maglev_shares_follow_the_weights() {
        let check = |weights: &[u16]| {
            let table = table(Pick::HashAddressPort, &members(weights));
            assert_eq!(table.len(), MAGLEV_SLOTS as usize);
            let total: u32 = weights.iter().map(|&weight| u32::from(weight)).sum();
            let counts = counts(&table);
            for (i, &weight) in weights.iter().enumerate() {
                let wanted = f64::from(MAGLEV_SLOTS) * f64::from(weight) / f64::from(total);
                let count = f64::from(counts[&(i as u16 + 1)]);
                assert!(
                    (count - wanted).abs() <= 2.0 + wanted * 0.01,
                    "{weights:?}: {} has {count} of {wanted}",
                    i + 1
                );
            }
        };
        check(&[1]);
        check(&[1, 1, 1]);
        check(&[1, 2, 3, 4]);
        check(&[1000, 1, 500]);
        check(&[1; 1000]);
        check(&(1..=100).collect::<Vec<_>>());
    }

    #[test]
    fn maglev_does_not_depend_on_order_or_numbers() {
        let members = members(&[1, 2, 3, 4, 5]);
        let addresses = |members: &[Member]| -> Vec<SocketAddr> {
            let by_number: HashMap<_, _> = members.iter().map(|m| (m.number, m.address)).collect();
            maglev(members)
                .iter()
                .map(|number| by_number[number])
                .collect()
        };
        let mut shuffled = members.clone();
        shuffled.reverse();
        for member in &mut shuffled {
            member.number += 100;
        }
        assert_eq!(addresses(&members), addresses(&shuffled));
    }

    /// Of the slots of the backends that stay, those count that change (the paper's figure 8). Measured: 0.24% with 1
    /// of 10 removed, 0.57% with 1 of 100 or 1000, 2.4% with 10 of 1000.
    #[test]
    fn maglev_moves_few_clients_when_backends_come_and_go() {
        let check = |backends: usize, removed: usize, moved_max: f64| {
            let all = members(&vec![1; backends]);
            let before = maglev(&all);
            let after = maglev(&all[removed..]);
            let stayed = before
                .iter()
                .filter(|&&number| usize::from(number) > removed)
                .count();
            let moved = before
                .iter()
                .zip(&after)
                .filter(|&(&old, &new)| usize::from(old) > removed && old != new)
                .count();
            let share = moved as f64 / stayed as f64;
            println!(
                "{removed} of {backends} backends removed: {:.2}% of the others' slots moved",
                share * 100.0
            );
            assert!(share < moved_max, "{removed} of {backends}: {share}");
        };
        check(2, 1, 0.000_1);
        check(10, 1, 0.01);
        check(100, 1, 0.02);
        check(1000, 1, 0.02);
        check(1000, 10, 0.04);
    }
}
