//! Random configurations, and requests that are near the borders of their rules.
//!
//! A seed makes a [`Scene`]: a mesh of some [`Shape`]. Requests begin as what one of its matches
//! asks for, and are then spoiled a little, or not.

mod limits;
mod paths;
mod policies;
mod requests;
mod rules;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use beeway_model::{Match, Mesh, Rule};

use crate::world::{add_service, mesh, rules_of};
use beeway_model::testing::Dice;

/// What a configuration is made to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// No rules at all, or an empty list.
    Bare,
    /// A few rules with conditions of all kinds.
    Mixed,
    /// Hundreds of paths that have beginnings in common.
    Routes,
    /// Regular expressions for paths, beside literal ones.
    Patterns,
    /// Around as many candidates or conditions as one host and path may lead to.
    Crowded,
    /// Something in it is only for userspace.
    Beyond,
}

/// A configuration and what is known of it.
pub struct Scene {
    pub shape: Shape,
    pub mesh: Mesh,
    examples: Examples,
}

/// Strings for which a regular expression holds.
#[derive(Debug, Default)]
struct Examples(HashMap<String, String>);

/// What rules are made of: paths that several of them name, and which conditions they have.
struct Palette {
    paths: Vec<String>,
    values: Vec<String>,
    names: Vec<String>,
    hosts: Vec<String>,
    query: bool,
    regex: bool,
    examples: Examples,
}

impl Scene {
    pub fn new(dice: &mut Dice) -> Scene {
        let shape = match dice.below(32) {
            0 => Shape::Bare,
            1..8 => Shape::Routes,
            8..12 => Shape::Patterns,
            12..16 => Shape::Crowded,
            16..18 => Shape::Beyond,
            _ => Shape::Mixed,
        };
        let mut palette = Palette::new(dice, shape);
        let mut mesh = mesh(match shape {
            Shape::Bare => dice.one_in(3).then(Vec::new),
            Shape::Mixed | Shape::Beyond => Some(palette.mixed(dice, shape)),
            Shape::Routes => Some(palette.routes(dice)),
            Shape::Patterns => Some(palette.patterns(dice)),
            Shape::Crowded => Some(palette.crowded(dice)),
        });
        if dice.one_in(4) {
            // equal parts of tables are shared
            let mut rules = palette.mixed(dice, Shape::Mixed);
            rules.extend(rules_of(&mesh).iter().take(3).cloned());
            add_service(&mut mesh, rules);
        }
        if dice.one_in(2) {
            mesh.access = palette.policies(dice).into_iter().map(Arc::new).collect();
        }
        if dice.one_in(3) {
            mesh.limits = palette.limits(dice);
        }
        Scene { shape, mesh, examples: palette.examples }
    }

    fn rules(&self) -> &[Rule] {
        rules_of(&self.mesh)
    }

    /// A rule and one of its matches, when there are any.
    fn pick(&self, dice: &mut Dice) -> Option<(&Rule, &Match)> {
        let rules = self.rules();
        if rules.is_empty() {
            return None;
        }
        let rule = &rules[dice.below(rules.len())];
        if rule.matches.is_empty() {
            return None;
        }
        Some((rule, &rule.matches[dice.below(rule.matches.len())]))
    }
}

impl Examples {
    fn keep(&mut self, pattern: String, example: String) -> String {
        self.0.insert(pattern.clone(), example);
        pattern
    }

    fn of(&self, pattern: &str) -> String {
        self.0.get(pattern).cloned().unwrap_or_default()
    }
}
