//! Bounds, age, whose turns are whose, and what says the same.

use gossamer_harmony::Tokenizer;

use super::*;

const CALL: &str = "<|channel|>analysis<|message|>need it<|end|><|start|>assistant<|channel|>commentary to=functions.f \
                    <|constrain|>json<|message|>{\"a\": 1, \"b\": [2.0]}<|call|>";

fn bounds(turns: usize, bytes: usize) -> KeptBounds {
    KeptBounds {
        turns,
        bytes,
        time_to_live: Duration::from_secs(60),
    }
}

fn turn(len: usize) -> KeptTurn {
    KeptTurn {
        tokens: vec![7; len].into(),
        literal: true,
    }
}

fn call(reasoning: Option<&str>, preamble: Option<&str>, name: &str, arguments: &str) -> Turn {
    Turn::Assistant {
        reasoning: reasoning.map(str::to_owned),
        preamble: preamble.map(str::to_owned),
        content: None,
        tool_calls: vec![ToolCall {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        }],
    }
}

#[test]
fn the_least_recently_used_goes_first_and_the_bounds_hold() {
    let now = Instant::now();
    let kept = KeptTurns::new(bounds(3, usize::MAX));
    for name in ["a", "b", "c"] {
        kept.insert(name.into(), turn(1), now);
    }
    assert!(kept.find("a", now).is_some());
    kept.insert("d".into(), turn(1), now);
    assert!(kept.find("b", now).is_none() && kept.find("a", now).is_some());
    assert_eq!(kept.lock().turns.len(), 3);

    let each = 100 * 4 + 1 + OVERHEAD;
    let kept = KeptTurns::new(bounds(100, 2 * each));
    for name in ["a", "b", "c", "c"] {
        kept.insert(name.into(), turn(100), now);
        let inner = kept.lock();
        assert_eq!(inner.bytes, inner.turns.len() * each);
        assert!(inner.bytes <= 2 * each && inner.by_use.len() == inner.turns.len());
    }
    assert!(kept.find("a", now).is_none() && kept.find("b", now).is_some());
    kept.insert("too long".into(), turn(1000), now);
    assert!(kept.find("too long", now).is_none() && kept.find("b", now).is_some());
    KeptTurns::new(bounds(0, 1000)).insert("a".into(), turn(1), now);
}

#[test]
fn a_turn_that_nobody_asks_for_expires() {
    let now = Instant::now();
    let kept = KeptTurns::new(bounds(10, usize::MAX));
    kept.insert("a".into(), turn(1), now);
    kept.insert("b".into(), turn(1), now);
    let later = now + Duration::from_secs(40);
    assert!(kept.find("a", later).is_some());
    let late = now + Duration::from_secs(61);
    assert!(kept.find("b", late).is_none());
    assert!(kept.find("a", late).is_some());
    assert!(kept.find("a", late + Duration::from_secs(61)).is_none());
    assert_eq!(kept.lock().bytes, 0);
}

#[test]
fn nobody_finds_what_is_anothers() {
    let kept = Arc::new(KeptTurns::new(bounds(10, usize::MAX)));
    let (anna, berta) = (
        Keeper::new(Arc::clone(&kept), "key:anna".into()),
        Keeper::new(kept, "key:berta".into()),
    );
    let tokens = Tokenizer::get().encode_with_special(CALL);
    anna.keep("call_1", &tokens, true);
    let sent = call(None, None, "f", r#"{"a":1,"b":[2]}"#);
    for (keeper, found) in [(&anna, true), (&berta, false)] {
        let mut turns = vec![sent.clone()];
        keeper.restore(
            &mut turns,
            &[(0, "call_1".to_owned()), (7, "call_1".to_owned())],
        );
        assert_eq!(matches!(turns[0], Turn::Generated { .. }), found);
    }
}

#[test]
fn what_says_the_same_is_put_back_and_what_does_not_is_believed() {
    let kept = |literal| KeptTurn {
        tokens: Tokenizer::get().encode_with_special(CALL).into(),
        literal,
    };
    let same = r#"{"b":[2],"a":1.0}"#;
    let put_back = |sent: Turn, literal| {
        let mut turns = vec![sent];
        kept(literal).put_back(&mut turns, 0..1);
        let [turn] = turns.try_into().expect("one turn");
        turn
    };
    for reasoning in [None, Some("need it")] {
        let turn = put_back(call(reasoning, None, "f", same), true);
        let Turn::Generated { tokens, plain } = turn else {
            panic!("{turn:?}");
        };
        assert_eq!(tokens, kept(true).tokens);
        // The reasoning is there too, should the tokens not be used.
        assert_eq!(*plain, call(Some("need it"), None, "f", same));
    }
    for (sent, read) in [
        // Edited: the reasoning that led to it comes back, the call stays as it was sent.
        (
            call(None, None, "f", "{}"),
            call(Some("need it"), None, "f", "{}"),
        ),
        (
            call(None, Some("Hm."), "f", same),
            call(Some("need it"), Some("Hm."), "f", same),
        ),
        // Another call, or other reasoning.
        (call(None, None, "g", same), call(None, None, "g", same)),
        (
            call(Some("x"), None, "f", same),
            call(Some("x"), None, "f", same),
        ),
    ] {
        assert_eq!(put_back(sent, true), read);
    }
    // What was not well-formed is not read again as it stands.
    assert_eq!(
        put_back(call(None, None, "f", same), false),
        call(Some("need it"), None, "f", same)
    );
}

#[test]
fn what_came_as_items_is_put_back_as_one() {
    const TALKATIVE: &str = "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>analysis<|message|>two<|end|>\
                             <|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
                             <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>";
    let keeper = Keeper::new(
        Arc::new(KeptTurns::new(bounds(10, usize::MAX))),
        "key:anna".into(),
    );
    let tokens = Tokenizer::get().encode_with_special(TALKATIVE);
    keeper.keep("call_1", &tokens, true);
    keeper.keep("call_2", &tokens, true);
    let said = |reasoning: Option<&str>, preamble: Option<&str>| Turn::Assistant {
        reasoning: reasoning.map(str::to_owned),
        preamble: preamble.map(str::to_owned),
        content: None,
        tool_calls: Vec::new(),
    };
    let user = |text: &str| Turn::User {
        name: None,
        text: text.to_owned(),
    };
    let result = Turn::ToolResult {
        name: "f".into(),
        content: "x".into(),
    };
    let whole = [
        said(Some("one"), None),
        said(Some("two"), None),
        said(None, Some("I look.")),
        call(None, None, "f", "{}"),
    ];
    let put_back = |items: &[Turn]| {
        let mut turns = vec![user("a")];
        turns.extend_from_slice(items);
        let first = (turns.len() - 1, "call_1".to_owned());
        turns.extend([result.clone(), call(None, None, "f", "{}"), result.clone()]);
        let second = (turns.len() - 2, "call_2".to_owned());
        keeper.restore(&mut turns, &[first, second]);
        let third = turns.len() - 2;
        assert!(matches!(turns[third], Turn::Generated { .. }));
        turns
    };
    // Everything, or without what was forgotten.
    for items in [&whole[..], &whole[2..], &whole[3..]] {
        let turns = put_back(items);
        assert_eq!(turns.len(), 5, "{turns:?}");
        assert!(matches!(&turns[1], Turn::Generated { tokens: kept, .. } if **kept == *tokens));
        assert_eq!(turns[2], result);
    }
    // Changed: the items stay, and the first has the reasoning that led to them.
    let changed = [said(None, Some("I look!")), whole[3].clone()];
    let turns = put_back(&changed);
    assert_eq!(turns[1], said(Some("one\n\ntwo"), Some("I look!")));
    assert_eq!(turns[2], changed[1]);
    // Half of the reasoning is other reasoning.
    assert_eq!(put_back(&whole[1..])[1..4], whole[1..]);
}

#[test]
fn arguments_are_compared_as_values() {
    for (one, other, same) in [
        ("{}", "{ }", true),
        ("", "{}", true),
        (" ", "", false),
        ("{\"a\": 1}", "{\"a\":1.0}", true),
        ("{\"a\": 1}", "{\"a\":\"1\"}", false),
        ("{\"a\": 1}", "{\"a\":1,\"b\":null}", false),
        ("[1,2]", "[2,1]", false),
        ("not json", "not json", true),
        ("not json", "{}", false),
    ] {
        assert_eq!(same_arguments(one, other), same, "{one} {other}");
    }
}
