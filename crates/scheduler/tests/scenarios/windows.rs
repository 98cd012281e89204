//! Scripts with two KV groups: what a window gives back, what it needs, and what the prefix cache keeps of it.

use crate::script::check;

#[test]
fn blocks_behind_the_window_are_returned_while_the_sequence_runs() {
    // A query sees itself and 3 tokens before it.
    check(
        "blocks=16 size=2 budget=4 seqs=4 window=4",
        "
        submit a 12 5
        step
        > a.0 0..4
        stats
        > running 1 waiting 0 used 8 cached 0 free 8
        step
        > a.0 4..8
        stats
        > running 1 waiting 0 used 8 cached 0 free 8
        step
        > a.0 8..12 +a.0
        stats
        > running 1 waiting 0 used 8 cached 0 free 8
        step
        > a.0 12..13 +a.0
        stats
        > running 1 waiting 0 used 9 cached 0 free 7
        step
        > a.0 13..14 +a.0
        stats
        > running 1 waiting 0 used 9 cached 0 free 7
        step
        > a.0 14..15 +a.0
        stats
        > running 1 waiting 0 used 10 cached 0 free 6
        run
        > a.0 Length
        > a finished: prompt 12 cached 0 output 5 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 16
        ",
    );
}

#[test]
fn a_window_lets_twice_as_many_sequences_run() {
    let script = |ends: &str| {
        format!(
            "
            submit a 15 2
            submit b 15 2
            step
            > a.0 0..15 +a.0
            {ends}
            "
        )
    };
    // 16 tokens take 8 of 15 blocks; or, of twice as many with half of the layers each, 8 and, once computed, 2.
    check(
        "blocks=15 size=2 budget=16 seqs=4",
        &script("stats\n> running 1 waiting 1 used 8 cached 0 free 7"),
    );
    check(
        "blocks=30 size=2 budget=16 seqs=4 window=4",
        &script(
            "step\n> a.0 15..16 +a.0\n> b.0 0..15 +b.0\n> a.0 Length\n> a finished: prompt 15 cached 0 output 2 preemptions 0",
        ),
    );
}

#[test]
fn a_sequence_with_a_window_may_use_the_whole_pool_and_one_token_more_is_refused() {
    // 6 blocks of the first group, and of the second those of 3 tokens before a chunk of 2, wherever they begin.
    check(
        "blocks=9 size=2 budget=2 seqs=4 window=4",
        "
        submit a 13 1
        > the prompt has 13 tokens, but at most 11 fit
        submit b 11 2
        > prompt (11 tokens) and max_tokens (2) together exceed 12 tokens
        submit c 11 1
        submit d 1 11
        run
        > c.0 Length
        > c finished: prompt 11 cached 0 output 1 preemptions 0
        > d.0 Length
        > d finished: prompt 1 cached 0 output 11 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 9
        ",
    );
}

#[test]
fn a_prefix_is_found_behind_a_window() {
    check(
        "blocks=40 size=2 budget=8 seqs=4 caching=1 window=4",
        "
        submit a 16 9
        run
        > a.0 Length
        > a finished: prompt 16 cached 0 output 9 preemptions 0
        submit b 16 1 like=a
        step
        > b.0 14..16 +b.0
        > b.0 Length
        > b finished: prompt 16 cached 14 output 1 preemptions 0
        submit c 20 1 like=a
        step
        > c.0 16..20 +c.0
        > c.0 Length
        > c finished: prompt 20 cached 16 output 1 preemptions 0
        submit d 7 1 like=a
        step
        > d.0 6..7 +d.0
        > d.0 Length
        > d finished: prompt 7 cached 6 output 1 preemptions 0
        submit e 16 1 like=a salt=1
        step
        > e.0 0..8
        cancel e
        ",
    );
}

#[test]
fn under_pressure_a_window_keeps_what_a_prompts_end_needs() {
    // a leaves 8 blocks of its prompt and 4 of its output in the first group; in the other the same, of which the first
    // are worth little. b takes 20 of the 16 that are free: the little ones of a go, its prompt's end stays.
    check(
        "blocks=40 size=2 budget=8 seqs=4 caching=1 window=4",
        "
        submit a 16 9
        run
        > a.0 Length
        > a finished: prompt 16 cached 0 output 9 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 24 free 16
        submit b 26 1
        run
        > b.0 Length
        > b finished: prompt 26 cached 0 output 1 preemptions 0
        submit c 18 1 like=a
        step
        > c.0 16..18 +c.0
        > c.0 Length
        > c finished: prompt 18 cached 16 output 1 preemptions 0
        submit d 9 1 like=a
        run
        > d.0 Length
        > d finished: prompt 9 cached 0 output 1 preemptions 0
        ",
    );
}
