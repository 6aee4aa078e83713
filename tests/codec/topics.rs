//! Matching, against a matcher that is nothing but the definition.

use fieldgate::mqtt::topic::{check_filter, check_name, matches};
use proptest::prelude::*;

/// Section 4.7, by recursion over levels.
fn naive(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => naive(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && naive(filter, topic),
        _ => false,
    }
}

fn naive_matches(filter: &str, topic: &str) -> bool {
    let filter: Vec<_> = filter.split('/').collect();
    let topic: Vec<_> = topic.split('/').collect();
    let hidden = topic[0].starts_with('$') && matches!(filter[0], "#" | "+");
    !hidden && naive(&filter, &topic)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn matching_is_what_the_definition_says(
        filter in "(\\$?[ab]?|\\+|#)(/([ab]?|\\+|#)){0,4}",
        topic in "\\$?[ab]?(/[ab]?){0,4}",
    ) {
        let is_valid = check_filter(&filter).is_ok() && check_name(&topic).is_ok();
        if is_valid {
            prop_assert_eq!(matches(&filter, &topic), naive_matches(&filter, &topic));
        }
    }

    #[test]
    fn a_name_is_a_filter_that_matches_itself(topic in "[^\0+#]{1,20}") {
        prop_assert_eq!(check_name(&topic), Ok(()));
        if !topic.starts_with("$share/") {
            prop_assert_eq!(check_filter(&topic), Ok(()));
        }
        prop_assert!(matches(&topic, &topic));
        prop_assert_eq!(matches("#", &topic), !topic.starts_with('$'));
    }

    #[test]
    fn checks_never_panic(text in any::<String>()) {
        let _ = check_name(&text);
        let _ = check_filter(&text);
        let _ = matches(&text, "a/b");
        let _ = matches("a/b", &text);
    }
}
