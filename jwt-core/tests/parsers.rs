//! What is read besides tokens: no input panics, and the short ways agree with the long ones.

use jwt_core::{ClaimPath, DenyList, Json, JwkSet, Object, Op, Revocations, Verdict, json};
use proptest::prelude::*;
use serde_json::Value;

/// Pieces that JSON is made of, so that random texts are often JSON, or nearly.
fn jsonish(most: usize) -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"a\"",
        "\"b\":",
        "\\",
        "\\u0061",
        "\\ud800",
        "\\n",
        " ",
        "\n",
        "0",
        "1",
        "-",
        "+",
        ".",
        "e",
        "E",
        "12",
        "9007199254740993",
        "9223372036854775808",
        "true",
        "false",
        "null",
        "a",
        "é",
        "\u{1}",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..most)
        .prop_map(|pieces| pieces.concat())
}

fn number() -> impl Strategy<Value = Json> {
    let text = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        (-3..4_i64).prop_map(|n| n.to_string()),
        any::<i128>().prop_map(|n| n.to_string()),
        (-4..5_i64).prop_map(|n| format!("{}.{}", n / 2, if n % 2 == 0 { 0 } else { 5 })),
        (-5..6_i64).prop_map(|n| format!("{}.0", 9_007_199_254_740_992 + n)),
        any::<f64>()
            .prop_filter("JSON has no others", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
    ];
    text.prop_map(|text| Json::parse(&text).unwrap_or_else(|| panic!("{text}")))
}

fn verdict(name: &str, a: &Json, b: &Json) -> Verdict {
    Op::from_name(name).expect("known").verdict(a, b, &mut |_, _| None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn strings_are_those_of_the_tokenizer(text in jsonish(6)) {
        let expected = serde_json::from_str::<String>(&text).ok().filter(|_| text.starts_with('"'));
        prop_assert_eq!(json::string(&text).map(|text| text.into_owned()), expected);
    }

    /// Without objects, whose members it wants distinct, it reads what the library reads.
    #[test]
    fn values_are_those_of_the_library(text in jsonish(8)) {
        let text = text.replace(['{', ':'], "");
        let expected = serde_json::from_str::<Value>(&text).is_ok();
        prop_assert_eq!(Json::parse(&text).is_some(), expected, "{}", text);
        // A value within an object takes the short ways of `Object`.
        let object = format!("{{\"m\":{text}}}");
        let expected = serde_json::from_str::<Value>(&object).is_ok();
        prop_assert_eq!(Object::parse(object.as_bytes()).is_ok(), expected, "{}", text);
    }

    #[test]
    fn an_object_gives_each_member(names in prop::collection::hash_set(".{0,8}", 0..20)) {
        let value = Value::from_iter(names.iter().map(|name| (name.clone(), Value::from(&**name))));
        let object = Object::parse(value.to_string().as_bytes()).expect("an object");
        for name in &names {
            let text = object.str(name);
            prop_assert_eq!(text.as_deref(), Some(&**name));
            let found = ClaimPath::key(name).find_in(object.text());
            prop_assert_eq!(found, object.raw(name));
        }
        prop_assert_eq!(object.names().count(), names.len());
    }

    #[test]
    fn numbers_are_in_one_order(a in number(), b in number()) {
        let [greater, greater_or_same, less, less_or_same] =
            ["gt", "ge", "lt", "le"].map(|name| verdict(name, &a, &b));
        // From the other side the same.
        prop_assert_eq!(greater, verdict("lt", &b, &a));
        prop_assert_eq!(greater_or_same, verdict("le", &b, &a));
        if greater == Verdict::TypeMismatch {
            prop_assert_eq!([greater_or_same, less, less_or_same], [Verdict::TypeMismatch; 3]);
        } else {
            // Exactly one of: less, the same, greater.
            prop_assert_ne!(greater, less_or_same);
            prop_assert_ne!(less, greater_or_same);
            prop_assert!(greater != Verdict::Holds || less != Verdict::Holds);
        }
        if a == b {
            prop_assert_eq!(greater_or_same, Verdict::Holds);
            prop_assert_eq!(less_or_same, Verdict::Holds);
        }
    }

    #[test]
    fn no_input_panics(text in jsonish(30), bytes: Vec<u8>, any in ".*", pem in "[-A-Za-z0-9+/= \n]*") {
        for bytes in [text.as_bytes(), &bytes, any.as_bytes()] {
            let _ = (Revocations::parse(bytes), DenyList::parse(bytes), JwkSet::parse_keyval(bytes));
            let list = [&b"{\"version\":1,\"identifier\":"[..], bytes, b"}"].concat();
            let _ = Revocations::parse(&list);
        }
        for label in ["PUBLIC KEY", "RSA PUBLIC KEY"] {
            let pem = format!("-----BEGIN {label}-----{pem}-----END {label}-----");
            let file = serde_json::json!({ "k": pem }).to_string();
            prop_assert!(JwkSet::parse_keyval(file.as_bytes()).is_err());
        }
        for text in [&text, &any] {
            let _ = (Json::parse(text), json::elements(text, 9), json::string(text));
            if let Ok(path) = ClaimPath::parse_jq(text) {
                let _ = path.find_in(text);
            }
            let path = ClaimPath::parse_delimited(text, &any, "\"");
            let _ = (path.find_in(text), ClaimPath::parse_delimited(text, "e", &any));
        }
    }
}
