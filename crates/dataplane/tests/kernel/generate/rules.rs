//! Rules: what they ask for and what they do.

use std::cmp::Reverse;

use beeway_model::{
    Action, Backend, ClusterId, HeaderMatch, Match, PathMatch, QueryMatch, Rule, SourceMatch,
    StringMatch,
};

use super::{Examples, Palette, Shape, paths, values};
use crate::world::{CLUSTERS, exact, header, labels};
use beeway_model::testing::Dice;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
const HOSTS: [&str; 14] = [
    "shop",
    "shop.example.com",
    "*.example.com",
    "*.a.example.com",
    "Example.com",
    "*",
    "*.com",
    "10.96.0.1",
    "*op",
    "shop.",
    "shop:80",
    "[fd00::60]",
    "b\u{fc}cher.example",
    "",
];
const WEIGHTS: [&[u32]; 10] = [
    &[1],
    &[0, 1],
    &[100, 0],
    &[90, 10],
    &[1, 1, 1],
    &[0],
    &[],
    &[1, 99],
    &[1, 4_294_967_294],
    &[33, 0, 67],
];

impl Palette {
    pub fn new(dice: &mut Dice, shape: Shape) -> Palette {
        let many = shape == Shape::Routes;
        let count = match many {
            true if dice.one_in(12) => dice.between(1000, 3000),
            true => dice.between(50, 500),
            false => dice.between(1, 12),
        };
        let longest = dice.of(&[8, 40, 40, 200]);
        let paths = paths::family(dice, count, longest);
        let mut names: Vec<String> = (0..3).map(|_| dice.of(&values::NAMES).to_owned()).collect();
        names.push("x-version".to_owned());
        let (query, regex) = (dice.one_in(2), dice.one_in(2));
        let (values, examples) = (values::pool(dice), Default::default());
        let hosts = (0..6).map(|_| dice.of(&HOSTS).to_owned()).collect();
        Palette { paths, values, names, hosts, query, regex, examples }
    }

    /// A few rules of all kinds.
    pub fn mixed(&mut self, dice: &mut Dice, shape: Shape) -> Vec<Rule> {
        let count = dice.between(1, 8);
        let mut rules: Vec<Rule> = (0..count).map(|_| self.rule(dice)).collect();
        if shape == Shape::Beyond {
            let at = dice.below(count);
            self.exceed(dice, &mut rules[at]);
        }
        // in any order a list without end would mostly stop at its first rule for everything
        if dice.one_in(2) {
            rules.sort_by_key(|rule| Reverse(rule.matches.iter().map(weight).min()));
        }
        rules
    }

    /// Many paths, the longer ones mostly first.
    pub fn routes(&mut self, dice: &mut Dice) -> Vec<Rule> {
        let conditions = dice.below(3);
        let (hosts, fold) = (dice.one_in(2), dice.one_in(2));
        let patterns = dice.of(&[0, 0, 10, 3]);
        let mut rules = Vec::new();
        for path in self.paths.clone() {
            let mut m = Match::default();
            if conditions == 0 && dice.one_in(3) {
                m = Match { hosts: Vec::new(), ..self.condition(dice) };
            }
            if hosts && dice.one_in(6) {
                m.hosts = self.hosts(dice);
            }
            m.path = Some(match dice.below(4) {
                _ if patterns > 0 && dice.one_in(patterns) => {
                    paths::below(dice, &path, &mut self.examples)
                }
                0 => PathMatch::Prefix(path),
                1 => PathMatch::Segments(path),
                _ => PathMatch::Exact(path),
            });
            m.ignore_path_case = fold && dice.one_in(12);
            rules.push(rule(vec![m], self.action(dice)));
        }
        for _ in 0..dice.below(4) {
            let path = Some(paths::regex(dice, &self.paths, &mut self.examples));
            let at = dice.below(rules.len());
            rules.insert(at, rule(vec![Match { path, ..Match::default() }], self.action(dice)));
        }
        if !dice.one_in(4) {
            rules.sort_by_key(|rule| match &rule.matches[0].path {
                Some(PathMatch::Prefix(path) | PathMatch::Segments(path)) => {
                    usize::MAX - path.len()
                }
                _ => 0,
            });
        }
        rules
    }

    /// Regular expressions that overlap.
    pub fn patterns(&mut self, dice: &mut Dice) -> Vec<Rule> {
        let count = dice.between(2, 7);
        let rules = (0..count).map(|_| {
            let mut m = if dice.one_in(3) { self.condition(dice) } else { Match::default() };
            if dice.one_in(6) {
                m.hosts = self.hosts(dice);
            }
            m.ignore_path_case = dice.one_in(8);
            m.path = Some(match dice.below(4) {
                0 => paths::literal(dice, &self.paths),
                _ => paths::regex(dice, &self.paths, &mut self.examples),
            });
            rule(vec![m], self.action(dice))
        });
        rules.collect()
    }

    /// 62 to 66 candidates or conditions for one path, and something else for another.
    pub fn crowded(&mut self, dice: &mut Dice) -> Vec<Rule> {
        let count = dice.between(62, 66);
        let path = at_path(dice, &self.paths);
        let kind = dice.below(4);
        let each = dice.between(1, 8);
        let mut numbers: Vec<usize> = (0..count).collect();
        let examples = &mut self.examples;
        let mut matches: Vec<Match> = match kind {
            // as many candidates, of half as many conditions
            0 | 1 => numbers.iter().map(|n| by_user(&path, *n)).collect(),
            // as many conditions, several to a candidate
            2 => numbers.chunks(each).map(|n| by_fields(&path, n, examples)).collect(),
            // as many conditions, but each for a path of its own
            _ => {
                let each = |n: &usize| by_fields(&format!("{path}/{n}"), &[*n], examples);
                numbers.iter().map(each).collect()
            }
        };
        numbers.truncate(matches.len());
        dice.shuffle(&mut matches);
        let mut rules: Vec<Rule> = if dice.one_in(3) {
            vec![rule(matches, self.action(dice))]
        } else {
            matches.into_iter().map(|m| rule(vec![m], self.action(dice))).collect()
        };
        if dice.one_in(2) {
            rules.push(self.rule(dice));
        }
        rules
    }

    fn rule(&mut self, dice: &mut Dice) -> Rule {
        let count = dice.of(&[0, 1, 1, 1, 2, 3]);
        let matches = (0..count).map(|_| self.condition(dice)).collect();
        rule(matches, self.action(dice))
    }

    fn condition(&mut self, dice: &mut Dice) -> Match {
        let mut m = Match { ignore_path_case: dice.one_in(6), ..Match::default() };
        m.path = match dice.below(12) {
            0..2 => None,
            2 => Some(paths::regex(dice, &self.paths, &mut self.examples)),
            _ => Some(paths::literal(dice, &self.paths)),
        };
        if dice.one_in(4) {
            m.hosts = self.hosts(dice);
        }
        if dice.one_in(4) {
            m.method = Some(method(dice));
        }
        if dice.one_in(16) {
            m.scheme = Some(match dice.below(4) {
                0 => exact("https"),
                1 => StringMatch::Prefix("http".to_owned()),
                2 => StringMatch::Regex("https?".to_owned()),
                _ => exact("http"),
            });
        }
        while dice.one_in(3) {
            let value = values::condition(dice, &self.values, self.regex, &mut self.examples);
            let invert = dice.one_in(3);
            m.headers.push(HeaderMatch { invert, ..header(&dice.of(&self.names), value) });
        }
        while self.query && dice.one_in(3) {
            let value = values::condition(dice, &self.values, self.regex, &mut self.examples);
            m.query.push(QueryMatch { name: dice.of(&values::PARAMETERS).to_owned(), value });
        }
        if dice.one_in(8) {
            m.sources = (0..dice.between(1, 2)).map(|_| source(dice)).collect();
        }
        m
    }

    fn hosts(&self, dice: &mut Dice) -> Vec<String> {
        (0..dice.between(1, 2)).map(|_| dice.of(&self.hosts)).collect()
    }

    fn action(&self, dice: &mut Dice) -> Action {
        if dice.one_in(5) {
            let answers = [
                (403, "RBAC: access denied"),
                (204, ""),
                (503, "x"),
                (200, ""),
                (302, ""),
                (304, ""),
            ];
            let (status, body) = dice.of(&answers);
            return Action::Respond { status, body: body.to_owned() };
        }
        let weights = WEIGHTS[dice.below(WEIGHTS.len())];
        let backend = |weight: &u32| Backend {
            cluster: (!dice.one_in(12)).then(|| ClusterId(dice.below(CLUSTERS))),
            weight: *weight,
            policy: None,
        };
        Action::Forward(weights.iter().map(backend).collect())
    }

    /// Makes a rule one that only userspace can follow, in one way or another.
    fn exceed(&mut self, dice: &mut Dice, rule: &mut Rule) {
        match dice.below(4) {
            0 => rule.detour = Some("a retry".to_owned()),
            1 => rule.action = Action::Respond { status: 200, body: "x".repeat(1024) },
            2 => rule.action = Action::Respond { status: 199, body: String::new() },
            _ => {
                let mut m = self.condition(dice);
                m.headers.push(header("x-long", exact(&"v".repeat(257))));
                rule.matches.push(m);
            }
        }
    }
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { name: "a rule".to_owned(), matches, action, policy: None, detour: None }
}

/// How much a match asks for.
fn weight(m: &Match) -> usize {
    let path = match &m.path {
        None => 0,
        Some(PathMatch::Exact(_)) => 100,
        Some(PathMatch::Regex(_)) => 20,
        Some(PathMatch::Prefix(path) | PathMatch::Segments(path)) => path.len(),
    };
    let method = usize::from(m.method.is_some());
    path + m.headers.len() + m.query.len() + m.hosts.len() + m.sources.len() + method
}

fn at_path(dice: &mut Dice, paths: &[String]) -> String {
    let path = dice.of(paths).trim_end_matches('/').to_owned();
    if path.is_empty() { "/r".to_owned() } else { path }
}

fn method(dice: &mut Dice) -> StringMatch {
    match dice.below(16) {
        0 => StringMatch::Regex("GET|P.*".to_owned()),
        1 => StringMatch::Regex("(?i)get".to_owned()),
        2..4 => StringMatch::Prefix("P".to_owned()),
        4 => exact("PURGE"),
        5 => exact("get"),
        6 => StringMatch::Present,
        _ => exact(METHODS[dice.below(METHODS.len())]),
    }
}

fn source(dice: &mut Dice) -> SourceMatch {
    let namespace = dice.one_in(2).then(|| dice.of(&["default", "other", "none"]).to_owned());
    let labels = if dice.one_in(2) { labels(dice.of(&["web", "api", "old"])) } else { [].into() };
    SourceMatch { namespace, labels }
}

fn by_user(path: &str, n: usize) -> Match {
    Match {
        path: Some(PathMatch::Prefix(path.to_owned())),
        method: Some(exact(["GET", "POST", "PUT"][n / 32])),
        headers: vec![header("x-user", exact(&format!("u{}", n % 32)))],
        ..Match::default()
    }
}

/// Conditions on fields and parameters, of which no two are the same.
fn by_fields(path: &str, numbers: &[usize], examples: &mut Examples) -> Match {
    let mut m = Match { path: Some(PathMatch::Exact(path.to_owned())), ..Match::default() };
    for n in numbers {
        let value = match n % 5 {
            0 | 1 => StringMatch::Present,
            2 => StringMatch::Prefix("1".to_owned()),
            3 => StringMatch::Regex(examples.keep(format!("{n}|1"), "1".to_owned())),
            _ => exact("1"),
        };
        if n % 4 == 3 {
            m.query.push(QueryMatch { name: format!("p{n}"), value });
        } else {
            let invert = n.is_multiple_of(3);
            m.headers.push(HeaderMatch { invert, ..header(&format!("x-{n}"), value) });
        }
    }
    m
}
