//! What the tree promises: lines, bounds, refusals.

use proptest::prelude::*;

use super::*;

fn one(text: &str) -> Node<'_> {
    only_document(text).unwrap()
}

fn finding(text: &str) -> Finding {
    only_document(text).unwrap_err()
}

#[test]
fn every_value_and_key_knows_its_line() {
    let root = one("# comment\na: 1\nb:\n  - x\n  - c: y\n");
    assert_eq!(root.line, 2);
    let Value::Sequence(items) = &root.get("b").unwrap().value else { panic!("not a list") };
    assert_eq!(items[0].line, 4);
    assert_eq!(items[1].get("c").unwrap().line, 5);
    let Value::Mapping(fields) = &root.value else { panic!("not a mapping") };
    assert_eq!(fields[1].0, Key { line: 3, name: "b".into() });
}

#[test]
fn scalars_stay_text_and_only_plain_nulls_are_nothing() {
    let root = one("a: 1.10\nb: yes\nc: ~\nd: \"null\"\ne:\n");
    let value = |name: &str| root.get(name).unwrap().value.clone();
    assert_eq!(value("a"), Value::Scalar("1.10".into()));
    assert_eq!(value("b"), Value::Scalar("yes".into()));
    assert_eq!(value("c"), Value::Null);
    assert_eq!(value("d"), Value::Scalar("null".into()));
    assert_eq!(value("e"), Value::Null);
}

#[test]
fn an_empty_file_is_no_document() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "null\n", "\u{feff}"] {
        assert_eq!(finding(text).message, "the file is empty", "{text:?}");
    }
    assert_eq!(one("{}").value, Value::Mapping(vec![]));
}

#[test]
fn documents_are_read_one_by_one_until_an_error() {
    let lines: Vec<_> = documents("a: 1\n---\nb: 2\n---\n}\n").map(|d| d.map(|n| n.line)).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0], &lines[1]), (&Ok(1), &Ok(3)));
    assert_eq!(lines[2].as_ref().unwrap_err().line, Some(5));
    assert_eq!(finding("a: 1\n---\nb: 2\n").line, Some(3));
}

#[test]
fn a_field_set_twice_is_refused_where_it_is_repeated() {
    let found = finding("a: 1\nb: 2\na: 3\n");
    assert_eq!((found.line, found.message.as_str()), (Some(3), "field `a` is set twice"));
    let many: String = (0..40).map(|i| format!("k{i}: v\n")).collect();
    assert_eq!(finding(&format!("{many}k7: again\n")).line, Some(41));
}

#[test]
fn broken_text_names_the_line() {
    assert_eq!(finding("a: 1\nb: [1, 2\n").line, Some(3));
    assert_eq!(finding("a: 1\nb: @x\n").line, Some(2));
    assert_eq!(finding("a: 1\nb: 2\0\0\0").message, "the file contains a NUL byte");
    assert_eq!(finding("a: 1\nb: 2\0\0\0").line, Some(2));
    assert!(finding("? [a]\n: b\n").message.contains("plain text"));
}

#[test]
fn aliases_copy_a_value_and_keep_the_line_of_use() {
    let root = one("a: &x [1, 2]\nb: *x\n");
    assert_eq!(root.get("b").unwrap().line, 2);
    assert_eq!(root.get("b").unwrap().value, root.get("a").unwrap().value);
}

#[test]
fn an_alias_bomb_is_refused_before_it_grows() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        let list = [alias.as_str(); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    assert!(finding(&text).message.contains("copy more than"));
    assert!(finding("a: &a [*a]\n").message.contains("contains it"));
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(10_000), "- ".repeat(10_000), "{a: ".repeat(10_000)] {
        // Brackets are refused by the parser itself, indentation by the tree.
        let message = finding(&text).message;
        assert!(message.contains("deep") || message.contains("recursion limit"), "{message}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_or_loops(text in "[-\\[\\]{}:,&*!|>'\"#%@`?a1~ \n\t\0\u{feff}é]{0,200}") {
        let documents: Vec<_> = documents(&text).collect();
        prop_assert!(documents.len() <= text.len() + 1);
    }
}
