//! All invariants of the core, in one function.
//!
//! Run after every step of every property test, and by the worker whenever it goes idle in debug builds.
//! Costs a walk over everything; knows nothing that is not in the core.
//!
//! - I1 A block is exactly one of free, evictable, in use, and the pool's lists agree with its states.
//! - I2 A block's reference count is the number of block tables that hold it, all of one group.
//! - I3 Evictable blocks are in the prefix cache, free blocks are not.
//! - I4 The prefix cache is closed: a cached block's parent is cached; in use if the child is, evicted later if not.
//!   So is what a block of another group stands beside; in use if that block is.
//! - I5 A cached block's tokens are those of every table that holds it, and lie below the computed length.
//! - I6 Tables share a block only at the same index and with the same tokens before it and in its computed part.
//! - I7 Each live sequence is in exactly one place (waiting, running, following), there by its rank, which is its
//!   request's priority and its own id; there are never too many running.
//! - I8 Only running sequences hold blocks, one table per group: in the first group enough for what is computed; in the
//!   others exactly as far as the step in flight writes, and none behind the window.
//! - I9 The newest token is never computed, and no sequence is past its `max_tokens` or the longest length; nor would
//!   it be with all its drafts, which only the newest token of an output has.
//! - I10 Every request has a live sequence; followers have one carrier without output; the queue's count is right.
//! - I11 Exactly the sequences of the step in flight have rows in flight, and only those are doomed.
//! - I12 A block that the step in flight writes belongs to the writing sequence's table alone and is not cached.
//! - I13 Of a prompt whose log-probabilities are asked for, nothing is computed that was not scored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::batch_plan::BlockId;
use crate::block_pool::BlockState;
use crate::kv_groups::KvGroups;
use crate::prefix_cache::{Key, Parent};
use crate::request::{SeqId, TokenId};
use crate::scheduler::{Request, Scheduler};
use crate::sequence::{Phase, Rank, Sequence};

/// Fails with the formatted message unless the condition holds.
macro_rules! hold {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Checks every invariant.
///
/// # Errors
/// The number and the circumstances of the first one that does not hold.
pub fn check(scheduler: &Scheduler) -> Result<(), String> {
    check_pool(&scheduler.kv)?;
    check_references(scheduler)?;
    check_chain(&scheduler.kv)?;
    for index in 0..scheduler.kv.groups.len() {
        check_sharing(scheduler, index)?;
    }
    check_places(scheduler)?;
    for (&id, sequence) in &scheduler.sequences {
        check_lengths(scheduler, id, sequence)?;
    }
    for request in scheduler.requests.values() {
        check_request(scheduler, request)?;
    }
    let unstarted = scheduler.requests.values().filter(|r| !r.started).count();
    hold!(
        unstarted == scheduler.num_unstarted && unstarted <= scheduler.limits.max_waiting,
        "I10: {unstarted} requests are unstarted, {} are counted",
        scheduler.num_unstarted
    );
    check_in_flight(scheduler)
}

fn blocks(kv: &KvGroups) -> impl Iterator<Item = BlockId> + use<> {
    (0..kv.pool.num_blocks() as u32).map(BlockId)
}

fn check_pool(kv: &KvGroups) -> Result<(), String> {
    let (pool, cache) = (&kv.pool, &kv.cache);
    let (mut free, mut evictable) = (0, BTreeMap::new());
    for block in blocks(kv) {
        match pool.state(block) {
            BlockState::Free => free += 1,
            BlockState::Evictable(turn) => {
                evictable.insert(turn, block);
            }
            BlockState::InUse { ref_count } => {
                hold!(ref_count > 0, "I1: {block:?} is in use by nobody")
            }
        }
    }
    let listed: BTreeSet<_> = pool.free_list().iter().collect();
    hold!(
        listed.len() == free && pool.num_free() == free,
        "I1: {free} blocks are free, the list is {listed:?}"
    );
    for &block in listed {
        hold!(
            pool.state(block) == BlockState::Free,
            "I1: {block:?} is on the free list, but not free"
        );
        hold!(
            !cache.is_registered(block),
            "I3: {block:?} is free, but cached"
        );
    }
    hold!(
        pool.evictable()
            .eq(evictable.iter().map(|(&turn, &b)| (turn, b))),
        "I1: evictable are {evictable:?}"
    );
    for block in evictable.values() {
        hold!(
            cache.is_registered(*block),
            "I3: {block:?} is evictable, but not cached"
        );
    }
    Ok(())
}

fn check_references(scheduler: &Scheduler) -> Result<(), String> {
    // Of each block: how many tables hold it, and the group of the first of them.
    let mut holders: HashMap<BlockId, (u32, usize)> = HashMap::new();
    for sequence in scheduler.sequences.values() {
        for (index, table) in sequence.kv.tables.iter().enumerate() {
            for &block in table.iter().filter(|block| block.is_block()) {
                let (held, group) = holders.entry(block).or_insert((0, index));
                *held += 1;
                hold!(
                    *group == index,
                    "I2: {block:?} is in tables of the groups {group} and {index}"
                );
            }
        }
    }
    let kv = &scheduler.kv;
    for block in blocks(kv) {
        let held = holders.get(&block).map_or(0, |&(held, _)| held);
        let counted = kv.pool.ref_count(block);
        hold!(
            counted == held,
            "I2: {block:?} counts {counted} references, {held} hold it"
        );
    }
    Ok(())
}

fn check_chain(kv: &KvGroups) -> Result<(), String> {
    let (pool, cache) = (&kv.pool, &kv.cache);
    let registered = |first: bool| {
        let mut found: Vec<_> = blocks(kv).collect();
        found.retain(|&block| (cache.group(block)).is_some_and(|group| (group == 0) == first));
        found
    };
    let by_node: HashMap<_, _> = (registered(true).into_iter())
        .filter_map(|block| Some((cache.node(block)?, block)))
        .collect();
    let beside = registered(false);
    let expected = [by_node.len(), beside.len(), by_node.len() + beside.len()];
    hold!(
        cache.len() == expected,
        "I4: the cache's maps have {:?} entries for {expected:?} blocks",
        cache.len()
    );
    for block in beside {
        let (node, group) = (cache.node(block), cache.group(block));
        let found = node.zip(group).and_then(|(n, g)| cache.beside(n, g));
        hold!(
            found == Some(block),
            "I4: where {block:?} should be is {found:?}"
        );
        let first = node.and_then(|node| by_node.get(&node));
        hold!(
            first.is_some_and(|&first| pool.ref_count(first) >= pool.ref_count(block)),
            "I4: {block:?} stands beside {first:?}, which fewer hold"
        );
    }
    for &block in by_node.values() {
        let key = cache.key(block).ok_or("I4: a cached block has no key")?;
        hold!(
            cache.block(key) == Some(block),
            "I4: the key of {block:?} leads to {:?}",
            cache.block(key)
        );
        let Parent::Node(parent) = key.parent else {
            continue;
        };
        let parent = *by_node
            .get(&parent)
            .ok_or_else(|| format!("I4: the parent of {block:?} is not cached"))?;
        let in_order = match (pool.state(block), pool.state(parent)) {
            (_, BlockState::InUse { .. }) => true,
            (BlockState::Evictable(child), BlockState::Evictable(parent)) => child < parent,
            _ => false,
        };
        hold!(
            in_order,
            "I4: {parent:?} would be evicted before its child {block:?}"
        );
    }
    Ok(())
}

fn check_sharing(scheduler: &Scheduler, index: usize) -> Result<(), String> {
    let (cache, block_size) = (&scheduler.kv.cache, scheduler.kv.block_size());
    // Of each block: where its holders have it, and their tokens up to the end of its computed part.
    let mut seen: HashMap<BlockId, (usize, u64, Vec<TokenId>)> = HashMap::new();
    for (id, sequence) in &scheduler.sequences {
        let kv = &sequence.kv;
        let salt = scheduler.requests[&sequence.request].salt;
        let table = kv.tables.get(index).into_iter().flatten().enumerate();
        for (at, &block) in table.filter(|(_, block)| block.is_block()) {
            let end = kv.computed_len.min((at + 1) * block_size);
            let mut tokens = Vec::new();
            sequence.tokens.extend(0..end, &mut tokens);
            if let Some(node) = cache.node(block) {
                let first = kv.tables[0][at];
                let has_tokens = |key: &Key| *key.tokens == tokens[at * block_size..];
                hold!(
                    kv.computed_len >= (at + 1) * block_size
                        && cache.group(block) == Some(index)
                        && cache.node(first) == Some(node)
                        && cache.key(first).is_some_and(has_tokens),
                    "I5: {id:?} holds cached {block:?} at {at} with other tokens"
                );
            } else {
                hold!(
                    !scheduler.kv.is_caching() || kv.computed_len < (at + 1) * block_size,
                    "I5: {id:?} has computed all of {block:?}, but it is not cached"
                );
            }
            let (first_at, first_salt, first_tokens) = seen
                .entry(block)
                .or_insert_with(|| (at, salt, tokens.clone()));
            let shared = first_tokens.len().min(tokens.len());
            hold!(
                *first_at == at
                    && *first_salt == salt
                    && first_tokens[..shared] == tokens[..shared],
                "I6: {id:?} shares {block:?} with a sequence of other tokens"
            );
        }
    }
    Ok(())
}

fn check_places(scheduler: &Scheduler) -> Result<(), String> {
    for (id, sequence) in &scheduler.sequences {
        let rank = Rank {
            priority: scheduler.requests[&sequence.request].priority,
            seq: *id,
        };
        hold!(
            sequence.rank == rank,
            "I7: {id:?} ranks as {:?}",
            sequence.rank
        );
        let places = (
            scheduler.waiting.contains(&rank),
            scheduler.running.contains(&rank),
        );
        let expected = match sequence.phase {
            Phase::Waiting => (true, false),
            Phase::Running => (false, true),
            Phase::Following => (false, false),
        };
        hold!(
            places == expected,
            "I7: {id:?} is {:?}, but (waiting, running) is {places:?}",
            sequence.phase
        );
    }
    let mut listed = scheduler.waiting.iter().chain(&scheduler.running);
    hold!(
        listed.all(|rank| scheduler.sequences.contains_key(&rank.seq)),
        "I7: an ended sequence waits or runs"
    );
    hold!(
        scheduler.running.len() <= scheduler.max_num_seqs,
        "I7: {} sequences run",
        scheduler.running.len()
    );
    Ok(())
}

fn check_lengths(scheduler: &Scheduler, id: SeqId, sequence: &Sequence) -> Result<(), String> {
    let kv = &sequence.kv;
    let len = sequence.len();
    if sequence.phase == Phase::Running {
        check_tables(scheduler, id, sequence)?;
        let registered = kv.computed_len / scheduler.kv.block_size();
        hold!(
            kv.registered
                == if scheduler.kv.is_caching() {
                    registered
                } else {
                    0
                },
            "I8: {id:?} has offered {} blocks to the cache",
            kv.registered
        );
    } else {
        hold!(
            kv.tables.iter().all(Vec::is_empty) && kv.computed_len == 0 && kv.registered == 0,
            "I8: {id:?} is {:?} and holds {kv:?}",
            sequence.phase
        );
    }
    hold!(
        kv.computed_len + sequence.in_flight <= len + sequence.drafts.len()
            && kv.computed_len < len,
        "I9: {id:?} has computed {} and runs {} of {len} tokens",
        kv.computed_len,
        sequence.in_flight
    );
    let num_drafts = sequence.drafts.len();
    hold!(
        num_drafts == 0
            || sequence.in_flight == 1 + num_drafts
                && sequence.remaining_len() == 1
                && sequence.output_len() > 0,
        "I9: {id:?} runs {} of {len} tokens with {num_drafts} drafts",
        sequence.in_flight
    );
    let request = &scheduler.requests[&sequence.request];
    let max_tokens = request.stop.max_tokens;
    hold!(
        sequence.output_len() + num_drafts < max_tokens
            && len + num_drafts < scheduler.limits.max_sequence_len,
        "I9: {id:?} lives with {len} tokens, {} of them output",
        sequence.output_len()
    );
    let to_score = sequence.tokens.prompt.len() - 1;
    hold!(
        request.prompt_logprobs.is_none() || kv.computed_len.min(to_score) <= request.scored_len,
        "I13: {id:?} has computed {} tokens, but only {} of the prompt are scored",
        kv.computed_len,
        request.scored_len
    );
    Ok(())
}

fn check_tables(scheduler: &Scheduler, id: SeqId, sequence: &Sequence) -> Result<(), String> {
    let (kv, groups) = (&sequence.kv, &scheduler.kv.groups);
    let needed = (scheduler.kv).blocks_for(kv.computed_len + sequence.in_flight);
    let lens: Vec<_> = kv.tables.iter().map(Vec::len).collect();
    hold!(
        lens.len() == groups.len()
            && lens[0] >= needed
            && lens[1..].iter().all(|&len| len == needed),
        "I8: {id:?} has tables of {lens:?} for {needed} blocks"
    );
    for (group, table) in groups.iter().zip(&kv.tables) {
        let first = group.first_block(kv.computed_len, scheduler.kv.block_size());
        let (behind, ahead) = table
            .split_at_checked(first)
            .ok_or("I8: a table ends too early")?;
        hold!(
            !behind.iter().any(|block| block.is_block())
                && ahead.iter().all(|block| block.is_block()),
            "I8: {id:?} needs the blocks from {first} on and has {table:?}"
        );
    }
    Ok(())
}

fn check_request(scheduler: &Scheduler, request: &Request) -> Result<(), String> {
    let first = request.first_seq;
    hold!(
        !request.live.is_empty(),
        "I10: the request of {first:?} has no sequence"
    );
    let mut live = Vec::new();
    for id in &request.live {
        let sequence = scheduler.sequences.get(id);
        live.push(sequence.ok_or_else(|| format!("I10: {id:?} is listed, but has ended"))?);
    }
    if live.iter().any(|s| s.phase == Phase::Following) {
        let carriers: Vec<_> = live
            .iter()
            .filter(|s| s.phase != Phase::Following)
            .collect();
        hold!(
            carriers.len() == 1 && carriers[0].output_len() == 0,
            "I10: the followers of {first:?} have {} carriers",
            carriers.len()
        );
    }
    hold!(
        request.started
            || live
                .iter()
                .all(|s| s.output_len() == 0 && s.phase != Phase::Running),
        "I10: the request of {first:?} runs, but has not started"
    );
    Ok(())
}

fn check_in_flight(scheduler: &Scheduler) -> Result<(), String> {
    let slices = scheduler.in_flight.iter().flat_map(|step| &step.slices);
    let in_flight: BTreeSet<_> = slices.map(|slice| slice.seq).collect();
    for (id, sequence) in &scheduler.sequences {
        hold!(
            (sequence.in_flight > 0) == in_flight.contains(id),
            "I11: {id:?} has {} rows in flight",
            sequence.in_flight
        );
        check_written(scheduler, *id, sequence)?;
        hold!(
            sequence.doom.is_none() || sequence.in_flight > 0,
            "I11: {id:?} is doomed, but not in flight"
        );
    }
    hold!(
        in_flight
            .iter()
            .all(|id| scheduler.sequences.contains_key(id)),
        "I11: an ended sequence is in flight"
    );
    Ok(())
}

fn check_written(scheduler: &Scheduler, id: SeqId, sequence: &Sequence) -> Result<(), String> {
    let computed_len = sequence.kv.computed_len;
    let written = computed_len / scheduler.kv.block_size()
        ..scheduler.kv.blocks_for(computed_len + sequence.in_flight);
    if sequence.in_flight == 0 {
        return Ok(());
    }
    let kv = &scheduler.kv;
    for table in &sequence.kv.tables {
        for &block in &table[written.clone()] {
            hold!(
                kv.pool.ref_count(block) == 1 && !kv.cache.is_registered(block),
                "I12: {id:?} writes {block:?}, which is not its own"
            );
        }
    }
    Ok(())
}
