//! Paths byte by byte: the tables hold the bytes between two branches as runs of up to eight.

use beeway_model::{Match, PathMatch, Rule};

use crate::case::Draft;
use crate::judge::Trial;
use crate::node::Node;
use crate::world::{at, forbid, forward, mesh, rule};

const TEXT: &str = "abcdefghijklmnopqrstuvwxyz0123456789-_~ABCDEFGH";

/// The path, all that it begins with, and it with each byte changed, left out or put in.
fn beside(path: &str) -> Vec<String> {
    let mut out = vec![format!("{path}/"), format!("{path}x"), path.to_ascii_uppercase()];
    for at in 1..=path.len() {
        let (before, behind) = path.split_at(at);
        out.push(before.to_owned());
        out.push(format!("{before}/"));
        out.push(format!("{before}!{behind}"));
        if let Some(rest) = behind.get(1..) {
            out.push(format!("{before}{rest}"));
            out.push(format!("{before}!{rest}"));
        }
    }
    out
}

fn assert_decided(node: &Node, rules: Vec<Rule>, targets: &[String]) {
    let trial = Trial::new(node, mesh(Some(rules)));
    assert!(trial.is_within_limits(), "{:?}", trial.tables.notices());
    for target in targets {
        assert!(trial.check(&Draft::get(target).case()), "{target}");
    }
}

#[test]
fn each_byte_of_a_path_counts() {
    let node = Node::start();
    for length in 1..=40 {
        let path = format!("/{}", &TEXT[..length]);
        for of in [PathMatch::Exact, PathMatch::Prefix, PathMatch::Segments] {
            let fold = Match { ignore_path_case: length % 2 == 0, ..at(of(path.clone())) };
            assert_decided(&node, vec![rule(fold, forward(1))], &beside(&path));
        }
    }
}

#[test]
fn runs_branch_at_each_of_their_bytes() {
    let node = Node::start();
    let path = format!("/{}", &TEXT[..40]);
    for cut in 1..=40 {
        let (before, behind) = path.split_at(cut);
        let branch = format!("{before}!{behind}");
        let rules = vec![
            rule(at(PathMatch::Exact(before.to_owned())), forbid()),
            rule(at(PathMatch::Exact(path.clone())), forward(1)),
            rule(at(PathMatch::Segments(branch.clone())), forward(2)),
            rule(at(PathMatch::Prefix(before.to_owned())), forward(3)),
            rule(at(PathMatch::Regex(format!("{}[0-9]+", &path[..cut / 2 + 1]))), forward(0)),
        ];
        let targets = [beside(&path), beside(&branch)].concat();
        assert_decided(&node, rules, &targets);
    }
}
