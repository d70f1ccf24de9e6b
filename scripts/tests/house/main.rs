//! The repository as it stands keeps its own rules.

use perilune_scripts::{Problems, graph, headers, root, tidy};

#[test]
fn the_house_is_tidy() {
    expect_none(&tidy::check(&root()));
}

#[test]
fn the_crates_are_as_drawn() {
    expect_none(&graph::check(&root()));
}

#[test]
fn the_c_header_is_current() {
    expect_none(&headers::check(&root()));
}

fn expect_none(problems: &Problems) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
