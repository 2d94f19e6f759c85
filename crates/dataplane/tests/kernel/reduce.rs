//! What is left of a disagreement when everything is left out that it does not need.

use std::sync::Arc;

use beeway_model::access::AccessRule;
use beeway_model::{Match, Mesh, Rule};

use crate::case::Case;
use crate::judge::Trial;
use crate::node::Node;
use crate::world::rules_of;

/// A disagreement that gets smaller.
pub struct Reduction<'a> {
    pub node: &'a Node,
    /// What [`Trial::judge`] says of it.
    pub what: &'static str,
    pub mesh: Mesh,
    pub case: Case,
}

/// Ways to make a match ask for less.
const SIMPLER: [fn(&mut Match); 10] = [
    |m| m.path = None,
    |m| m.ignore_path_case = false,
    |m| m.hosts.clear(),
    |m| drop(m.hosts.pop()),
    |m| m.method = None,
    |m| m.scheme = None,
    |m| m.headers.clear(),
    |m| drop(m.headers.pop()),
    |m| m.query.clear(),
    |m| m.sources.clear(),
];

impl Reduction<'_> {
    /// Leaves out services, rules, conditions and lines of the head.
    pub fn run(mut self) -> (Mesh, Case) {
        self.attempt(|mesh| mesh.services.truncate(1));
        self.leave_out_policies();
        self.leave_out_rules();
        for at in 0..rules_of(&self.mesh).len().min(8) {
            self.simplify(at);
        }
        self.leave_out_lines();
        (self.mesh, self.case)
    }

    /// Keeps a change after which all is as wrong as before.
    fn attempt(&mut self, change: impl FnOnce(&mut Mesh)) -> bool {
        let mut mesh = self.mesh.clone();
        change(&mut mesh);
        let wrong = mesh != self.mesh
            && Trial::new(self.node, mesh.clone()).judge(&self.case) == Err(self.what);
        if wrong {
            self.mesh = mesh;
        }
        wrong
    }

    fn leave_out_rules(&mut self) {
        let mut size = rules_of(&self.mesh).len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < rules_of(&self.mesh).len() {
                let gone = self.attempt(|mesh| {
                    let rules = rules_in(mesh);
                    rules.drain(at..rules.len().min(at + size));
                });
                if !gone {
                    at += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    fn leave_out_policies(&mut self) {
        for at in (0..self.mesh.access.len()).rev() {
            if self.attempt(|mesh| drop(mesh.access.remove(at))) {
                continue;
            }
            for n in (0..self.mesh.access[at].rules.len()).rev() {
                self.attempt(|mesh| drop(rules_at(mesh, at).remove(n)));
            }
            for n in 0..self.mesh.access[at].rules.len() {
                self.attempt(|mesh| rules_at(mesh, at)[n].sources.clear());
                self.attempt(|mesh| rules_at(mesh, at)[n].operations.clear());
                self.attempt(|mesh| rules_at(mesh, at)[n].conditions.clear());
            }
        }
    }

    fn simplify(&mut self, at: usize) {
        for n in (0..rules_of(&self.mesh)[at].matches.len()).rev() {
            if self.attempt(|mesh| drop(rules_in(mesh)[at].matches.remove(n))) {
                continue;
            }
            for simpler in SIMPLER {
                self.attempt(|mesh| simpler(&mut rules_in(mesh)[at].matches[n]));
            }
        }
    }

    fn leave_out_lines(&mut self) {
        let trial = Trial::new(self.node, self.mesh.clone());
        let mut at = 1;
        loop {
            let lines: Vec<&[u8]> = self.case.bytes.split_inclusive(|b| *b == b'\n').collect();
            if at >= lines.len() || lines[at] == b"\r\n" {
                return;
            }
            let is_host = lines[at].get(..5).is_some_and(|n| n.eq_ignore_ascii_case(b"host:"));
            let bytes = [&lines[..at], &lines[at + 1..]].concat().concat();
            let fewer = Case { bytes, ..self.case.clone() };
            if !is_host && trial.judge(&fewer) == Err(self.what) {
                self.case = fewer;
            } else {
                at += 1;
            }
        }
    }
}

fn rules_in(mesh: &mut Mesh) -> &mut Vec<Rule> {
    mesh.services[0].ports[0].rules.get_or_insert_default()
}

/// The rules of a policy, to be changed.
fn rules_at(mesh: &mut Mesh, policy: usize) -> &mut Vec<AccessRule> {
    &mut Arc::make_mut(&mut mesh.access[policy]).rules
}
