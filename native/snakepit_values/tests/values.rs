mod support;

use proptest::{collection::vec, prelude::*};
use snakepit_values::{Dtype, Kind, MAX_DEPTH, ReadError, TAG};
use support::{Value, check, read_extended, read_json, written};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<String>(),
        1 => Just(TAG.to_string()),
        1 => "[\\x00-\\x7f]{0,20}",
    ]
}

fn tensor() -> impl Strategy<Value = Value> {
    (0..Dtype::ALL.len(), vec(0..4usize, 0..4)).prop_map(|(dtype, shape)| {
        let dtype = Dtype::ALL[dtype];
        let size = dtype.bytes(&shape).unwrap_or_default();
        Value::Tensor(dtype, shape, vec![7; size])
    })
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        "-?[1-9][0-9]{19,50}".prop_map(Value::Big),
        any::<f64>().prop_map(Value::Float),
        text().prop_map(Value::Text),
        vec(any::<u8>(), 0..100).prop_map(Value::Bytes),
        tensor(),
        vec(any::<u8>(), 0..100).prop_map(Value::Arrow),
    ];
    scalar.prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::List),
            vec((text(), inner), 0..6).prop_map(Value::Map),
        ]
    })
}

/// How many may be given by `PROPTEST_CASES`; `cargo fuzz` looks further (fuzz/Cargo.toml).
fn config() -> ProptestConfig {
    let given = std::env::var("PROPTEST_CASES").is_ok();
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: if given { config.cases } else { 2_000 },
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_written_is_read_as_it_was(value in value()) {
        let (kind, bytes) = written(&value);
        prop_assert_eq!(read_extended(&bytes), Some(Ok(value.clone())));
        if kind == Kind::Json {
            let text = std::str::from_utf8(&bytes)?;
            prop_assert_eq!(read_json(text), Ok(value));
        }
    }

    #[test]
    fn what_is_written_as_json_is_json_for_everyone(value in value()) {
        let (kind, bytes) = written(&value);
        let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
        prop_assert!(kind == Kind::Extended || theirs.is_ok());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn any_text_is_json_here_and_elsewhere_or_nowhere(text in any::<String>()) {
        agrees(&text)?;
    }

    #[test]
    fn what_looks_like_json_is_json_here_and_elsewhere_or_nowhere(
        text in "([\\[\\]{}:,\"\\\\ntfeE+.\\-0-9ul ]|null|true|false|\\\\u[0-9a-fD]{4}|\"[a-z]\"){0,30}"
    ) {
        agrees(&text)?;
    }

    #[test]
    fn spoilt_values_are_read_or_refused(value in value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (_, mut bytes) = written(&value);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check(&bytes);
        bytes.truncate(at);
        check(&bytes);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            agrees(text)?;
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn decimal_numbers_are_the_nearest_floats_and_exact_integers(
        number in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?"
    ) {
        let wanted = if number.contains(['.', 'e', 'E']) {
            Value::Float(number.parse()?)
        } else if let Ok(int) = number.parse() {
            Value::Int(int)
        } else {
            Value::Big(number.clone())
        };
        prop_assert_eq!(read_json(&number), Ok(wanted));
    }

    #[test]
    fn strings_with_escapes_follow_each_other(texts in vec("[a\"\\\\\n\u{1F600}]{0,40}", 0..5)) {
        let value = Value::List(texts.into_iter().map(Value::Text).collect());
        prop_assert_eq!(read_extended(&written(&value).1), Some(Ok(value)));
    }
}

fn agrees(text: &str) -> Result<(), TestCaseError> {
    let ours = read_json(text);
    let theirs = serde_json::from_str::<serde_json::Value>(text);
    // With arbitrary precision serde_json keeps the text of a number that no float can be.
    let beyond = matches!(&ours, Err(ReadError::Syntax { what, .. }) if what.contains("range"));
    prop_assert!(
        ours.is_ok() == theirs.is_ok() || beyond,
        "{ours:?} {theirs:?}"
    );
    Ok(())
}

#[test]
fn the_bytes_are_those_of_the_guide() {
    let map = |key: &str, value| Value::Map(vec![(key.into(), value)]);
    let cases: [(Value, Kind, &[u8]); 5] = [
        (Value::Float(f64::NAN), Kind::Extended, b"NaN"),
        (
            Value::Float(f64::NEG_INFINITY),
            Kind::Extended,
            b"-Infinity",
        ),
        (Value::Float(0.1), Kind::Json, b"0.1"),
        (
            map("a", Value::Text("\"\\\n\u{1}/ü".into())),
            Kind::Json,
            "{\"a\":\"\\\"\\\\\\n\\u0001/ü\"}".as_bytes(),
        ),
        (
            map(TAG, Value::Int(1)),
            Kind::Extended,
            br#"{"$snakepit":["map",[["$snakepit",1]]]}"#,
        ),
    ];
    for (value, kind, bytes) in cases {
        assert_eq!(written(&value), (kind, bytes.to_vec()));
    }
    let mut tail =
        br#"[{"$snakepit":["bytes",0,1]},{"$snakepit":["tensor","int16",[1],64,2]}]"#.to_vec();
    tail.resize(128, 0);
    tail.push(255);
    tail.resize(192, 0);
    tail.extend_from_slice(&[1, 2]);
    let value = Value::List(vec![
        Value::Bytes(vec![255]),
        Value::Tensor(Dtype::Int16, vec![1], vec![1, 2]),
    ]);
    assert_eq!(written(&value), (Kind::Extended, tail));
}

#[test]
fn a_place_that_the_tail_does_not_have_is_refused() {
    for text in [
        r#"{"$snakepit":["bytes",0,3]}"#,
        r#"{"$snakepit":["bytes",3,0]}"#,
        r#"{"$snakepit":["bytes",-1,1]}"#,
        r#"{"$snakepit":["bytes",18446744073709551615,2]}"#,
        r#"[{"$snakepit":["bytes",0,2]},{"$snakepit":["bytes",1,1]}]"#,
        r#"{"$snakepit":["tensor","int8",[3],0,2]}"#,
        r#"{"$snakepit":["tensor","int64",[4611686018427387904,4],0,0]}"#,
        r#"{"$snakepit":["tensor","int4",[2],0,2]}"#,
        r#"{"$snakepit":["arrow",0,3]}"#,
        r#"{"$snakepit":["arrow",1,1]}"#,
        r#"{"$snakepit":["map",[["a"]]]}"#,
        r#"{"$snakepit":["other",1]}"#,
        r#"{"$snakepit":["bytes",0,1],"a":1}"#,
        r#"{"a":1,"$snakepit":["bytes",0,1]}"#,
        r#"{"$snakepit":1}"#,
        r#"{"$snakepit""#,
    ] {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize((text.len() + 1).next_multiple_of(64), 0);
        bytes.extend_from_slice(b"ab");
        let read = read_extended(&bytes);
        assert!(
            matches!(read, Some(Err(ReadError::Syntax { .. }))),
            "{text}: {read:?}"
        );
    }
}

#[test]
fn nesting_and_digits_are_bounded() {
    let nestings = [
        ("[", "", "]", 1),
        (r#"{"a":["#, "1", "]}", 2),
        (r#"{"$snakepit":["map",[["a","#, "1", "]]]}", 1),
    ];
    for (open, inside, close, levels) in nestings {
        for repeats in [MAX_DEPTH / levels, MAX_DEPTH / levels + 1, 100_000] {
            let (open, close) = (open.repeat(repeats), close.repeat(repeats));
            let read = read_extended(format!("{open}{inside}{close}").as_bytes());
            if repeats * levels == MAX_DEPTH {
                assert!(matches!(read, Some(Ok(_))), "{read:?}");
            } else {
                assert_eq!(read, Some(Err(ReadError::TooDeep)));
            }
        }
    }
    assert!(read_json(&"1".repeat(100_000)).is_ok());
    assert_eq!(
        read_json(&"1".repeat(100_001)),
        Err(ReadError::TooManyDigits)
    );
}
