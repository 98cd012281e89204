//! Scripts with the plans and events they must give, line by line.
//!
//! A script is commands, each followed by what it prints, marked `>`. Commands:
//!
//! ```text
//! submit NAME PROMPT_LEN MAX_TOKENS [n=N] [like=NAME] [salt=N] [priority=N] [scores=N]
//!                        prompts differ by name; `like` borrows another's tokens
//! step                   one line per slice: `a.0 2..4` computes positions 2 and 3 of a's choice 0; `+a.1` adds a draw,
//!                        `?3..5` scores the prompt's tokens 3 and 4;
//!                        `copy`: a block is copied first; `preempt`: a sequence lost its blocks; then the ends
//! run                    steps until idle; prints the ends only
//! cancel NAME | finish NAME CHOICE | fail
//! stats                  running, waiting, blocks used/cached/free
//! ```
//!
//! With `window=` in the setup there are two groups, and blocks of both in the statistics.

#[path = "../common/mod.rs"]
mod common;
mod script;
mod windows;

use script::check;

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_running_decodes() {
    check(
        "blocks=16 size=2 budget=4 seqs=4",
        "
        submit a 2 9
        step
        > a.0 0..2 +a.0
        submit b 7 2
        step
        > a.0 2..3 +a.0
        > b.0 0..3
        step
        > a.0 3..4 +a.0
        > b.0 3..6
        step
        > a.0 4..5 +a.0
        > b.0 6..7 +b.0
        step
        > a.0 5..6 +a.0
        > b.0 7..8 +b.0
        > b.0 Length
        > b finished: prompt 7 cached 0 output 2 preemptions 0
        run
        > a.0 Length
        > a finished: prompt 2 cached 0 output 9 preemptions 0
        ",
    );
}

#[test]
fn the_last_prompt_token_is_computed_even_if_all_of_the_prompt_is_cached() {
    check(
        "blocks=8 size=2 budget=16 seqs=4 caching=1",
        "
        submit a 6 1
        run
        > a.0 Length
        > a finished: prompt 6 cached 0 output 1 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 3 free 5
        submit b 6 1 like=a
        step
        > b.0 4..6 +b.0
        > b.0 Length
        > b finished: prompt 6 cached 4 output 1 preemptions 0
        submit c 7 1 like=a
        step
        > c.0 6..7 +c.0
        > c.0 Length
        > c finished: prompt 7 cached 6 output 1 preemptions 0
        submit d 6 1 like=a salt=1
        step
        > d.0 0..6 +d.0
        > d.0 Length
        > d finished: prompt 6 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn choices_share_the_prompt_and_copy_only_its_partial_block() {
    check(
        "blocks=8 size=4 budget=16 seqs=4",
        "
        submit a 6 3 n=3
        step
        > a.0 0..6 +a.0 +a.1 +a.2
        stats
        > running 3 waiting 0 used 2 cached 0 free 6
        step
        > copy
        > copy
        > a.0 6..7 +a.0
        > a.1 6..7 +a.1
        > a.2 6..7 +a.2
        stats
        > running 3 waiting 0 used 4 cached 0 free 4
        run
        > a.0 Length
        > a.1 Length
        > a.2 Length
        > a finished: prompt 6 cached 0 output 9 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 8
        ",
    );
    check(
        "blocks=8 size=3 budget=16 seqs=4",
        "
        submit a 6 2 n=3
        step
        > a.0 0..6 +a.0 +a.1 +a.2
        stats
        > running 3 waiting 0 used 2 cached 0 free 6
        step
        > a.0 6..7 +a.0
        > a.1 6..7 +a.1
        > a.2 6..7 +a.2
        > a.0 Length
        > a.1 Length
        > a.2 Length
        > a finished: prompt 6 cached 0 output 6 preemptions 0
        ",
    );
}

#[test]
fn choices_beyond_the_seats_wait_and_are_recomputed_later() {
    check(
        "blocks=8 size=4 budget=16 seqs=2",
        "
        submit a 6 3 n=3
        step
        > a.0 0..6 +a.0 +a.1 +a.2
        stats
        > running 2 waiting 1 used 2 cached 0 free 6
        step
        > copy
        > a.0 6..7 +a.0
        > a.1 6..7 +a.1
        step
        > a.0 7..8 +a.0
        > a.1 7..8 +a.1
        > a.0 Length
        > a.1 Length
        step
        > a.2 0..7 +a.2
        stats
        > running 1 waiting 0 used 2 cached 0 free 6
        run
        > a.2 Length
        > a finished: prompt 6 cached 0 output 9 preemptions 0
        ",
    );
}

#[test]
fn when_blocks_run_out_the_latest_sequence_is_preempted_and_comes_back() {
    check(
        "blocks=4 size=2 budget=16 seqs=4",
        "
        submit a 3 5
        submit b 1 4
        step
        > b.0 0..1 +b.0
        > a.0 0..3 +a.0
        stats
        > running 2 waiting 0 used 3 cached 0 free 1
        step
        > a.0 3..4 +a.0
        > b.0 1..2 +b.0
        step
        > preempt
        > a.0 4..5 +a.0
        stats
        > running 1 waiting 1 used 3 cached 0 free 1
        step
        > a.0 5..6 +a.0
        run
        > a.0 Length
        > a finished: prompt 3 cached 0 output 5 preemptions 0
        > b.0 Length
        > b finished: prompt 1 cached 0 output 4 preemptions 1
        stats
        > running 0 waiting 0 used 0 cached 0 free 4
        ",
    );
}

#[test]
fn a_sequence_may_use_the_whole_pool_and_one_token_more_is_refused() {
    check(
        "blocks=3 size=2 budget=16 seqs=4",
        "
        submit a 5 1
        submit b 6 1
        > the prompt has 6 tokens, but at most 5 fit
        submit c 5 2
        > prompt (5 tokens) and max_tokens (2) together exceed 6 tokens
        submit d 1 5
        submit e 1 6
        > prompt (1 tokens) and max_tokens (6) together exceed 6 tokens
        submit f 0 1
        > prompt: at least one token is needed
        submit g 1 0
        > stop.max_tokens: must be at least 1
        submit h 1 1 n=0
        > n: must be from 1 to 128, not 0
        run
        > a.0 Length
        > a finished: prompt 5 cached 0 output 1 preemptions 0
        > d.0 Length
        > d finished: prompt 1 cached 0 output 5 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 3
        ",
    );
    check(
        "blocks=3 size=2 budget=16 seqs=4 len=5",
        "
        submit a 4 1
        submit b 5 1
        > the prompt has 5 tokens, but at most 4 fit
        submit c 3 3
        > prompt (3 tokens) and max_tokens (3) together exceed 5 tokens
        run
        > a.0 Length
        > a finished: prompt 4 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn the_queue_bound_counts_requests_of_which_nothing_was_planned() {
    check(
        "blocks=8 size=2 budget=16 seqs=1 waiting=2",
        "
        submit a 1 2
        submit b 1 1
        submit c 1 1
        > the queue is full (2 requests are waiting)
        step
        > a.0 0..1 +a.0
        submit d 1 1
        submit e 1 1
        > the queue is full (2 requests are waiting)
        cancel b
        submit f 1 1
        stats
        > running 1 waiting 2 used 1 cached 0 free 7
        run
        > a.0 Length
        > a finished: prompt 1 cached 0 output 2 preemptions 0
        > d.0 Length
        > d finished: prompt 1 cached 0 output 1 preemptions 0
        > f.0 Length
        > f finished: prompt 1 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn a_failed_step_fails_its_requests_and_nobody_else() {
    check(
        "blocks=8 size=2 budget=4 seqs=4 caching=1",
        "
        submit a 2 3 n=2
        submit b 2 3
        submit c 2 3
        step
        > a.0 0..2 +a.0 +a.1
        > b.0 0..2 +b.0
        fail
        > a failed: the engine failed: scripted
        > b failed: the engine failed: scripted
        stats
        > running 0 waiting 1 used 0 cached 2 free 6
        run
        > c.0 Length
        > c finished: prompt 2 cached 0 output 3 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 4 free 4
        ",
    );
}

#[test]
fn cancelling_returns_every_block_while_waiting_in_prefill_and_in_decode() {
    check(
        "blocks=8 size=2 budget=4 seqs=2 caching=0",
        "
        submit a 2 9
        submit b 6 3
        submit c 2 3
        step
        > a.0 0..2 +a.0
        > b.0 0..2
        stats
        > running 2 waiting 1 used 4 cached 0 free 4
        cancel c
        cancel b
        stats
        > running 1 waiting 0 used 1 cached 0 free 7
        step
        > a.0 2..3 +a.0
        cancel a
        stats
        > running 0 waiting 0 used 0 cached 0 free 8
        step
        > nothing to do
        ",
    );
}

#[test]
fn a_follower_takes_over_when_the_carrier_is_ended_in_its_prefill() {
    check(
        "blocks=8 size=2 budget=4 seqs=4",
        "
        submit a 6 2 n=3
        step
        > a.0 0..4
        finish a 0
        > a.0 Caller
        step
        > a.1 4..6 +a.1 +a.2
        finish a 2
        > a.2 Caller
        run
        > a.1 Length
        > a finished: prompt 6 cached 0 output 3 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 8
        ",
    );
}

#[test]
fn the_queue_is_strictly_first_come_first_served() {
    check(
        "blocks=8 size=2 budget=16 seqs=4",
        "
        submit a 8 3
        step
        > a.0 0..8 +a.0
        submit b 10 2
        submit c 1 1
        step
        > a.0 8..9 +a.0
        step
        > a.0 9..10 +a.0
        > a.0 Length
        > a finished: prompt 8 cached 0 output 3 preemptions 0
        step
        > c.0 0..1 +c.0
        > b.0 0..10 +b.0
        > c.0 Length
        > c finished: prompt 1 cached 0 output 1 preemptions 0
        run
        > b.0 Length
        > b finished: prompt 10 cached 0 output 2 preemptions 0
        ",
    );
}

#[test]
fn least_recently_used_prefixes_are_evicted_first_and_from_their_end() {
    check(
        "blocks=6 size=2 budget=16 seqs=4 caching=1",
        "
        submit a 5 1
        run
        > a.0 Length
        > a finished: prompt 5 cached 0 output 1 preemptions 0
        submit b 5 1
        run
        > b.0 Length
        > b finished: prompt 5 cached 0 output 1 preemptions 0
        submit c 5 1 like=a
        run
        > c.0 Length
        > c finished: prompt 5 cached 4 output 1 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 4 free 2
        submit d 5 1
        run
        > d.0 Length
        > d finished: prompt 5 cached 0 output 1 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 5 free 1
        submit e 5 1 like=a
        run
        > e.0 Length
        > e finished: prompt 5 cached 4 output 1 preemptions 0
        submit f 5 1 like=b
        run
        > f.0 Length
        > f finished: prompt 5 cached 2 output 1 preemptions 0
        ",
    );
}

#[test]
fn a_better_priority_goes_first_and_the_same_goes_by_arrival() {
    check(
        "blocks=16 size=2 budget=16 seqs=1",
        "
        submit a 2 2 priority=2
        step
        > a.0 0..2 +a.0
        submit b 2 1 priority=1
        submit c 2 1
        submit d 2 1 priority=1
        run
        > a.0 Length
        > a finished: prompt 2 cached 0 output 2 preemptions 0
        > c.0 Length
        > c finished: prompt 2 cached 0 output 1 preemptions 0
        > b.0 Length
        > b finished: prompt 2 cached 0 output 1 preemptions 0
        > d.0 Length
        > d finished: prompt 2 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn the_worst_priority_is_preempted_even_if_it_came_first() {
    check(
        "blocks=4 size=2 budget=16 seqs=4",
        "
        submit a 3 5 priority=1
        step
        > a.0 0..3 +a.0
        submit b 1 5
        step
        > a.0 3..4 +a.0
        > b.0 0..1 +b.0
        step
        > b.0 1..2 +b.0
        > a.0 4..5 +a.0
        step
        > preempt
        > b.0 2..3 +b.0
        run
        > b.0 Length
        > b finished: prompt 1 cached 0 output 5 preemptions 0
        > a.0 Length
        > a finished: prompt 3 cached 0 output 5 preemptions 1
        ",
    );
}

#[test]
fn a_prompt_to_be_scored_is_computed_even_where_it_is_cached() {
    check(
        "blocks=16 size=2 budget=4 seqs=4 caching=1",
        "
        submit a 6 1
        run
        > a.0 Length
        > a finished: prompt 6 cached 0 output 1 preemptions 0
        submit b 6 1 like=a scores=2
        step
        > b.0 0..4 ?1..5
        step
        > b.0 4..6 +b.0 ?5..6
        > b.0 Length
        > b finished: prompt 6 cached 0 output 1 preemptions 0
        submit c 1 1 scores=2
        step
        > c.0 0..1 +c.0
        > c.0 Length
        > c finished: prompt 1 cached 0 output 1 preemptions 0
        ",
    );
}
