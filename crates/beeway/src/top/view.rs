//! What is shown and what keys do, without a terminal.

use std::cmp::Reverse;

use beeway_telemetry::graph::{Asked, Place, Snapshot};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::cells;
use crate::cli::Sort;

/// The state of the live view.
#[derive(Debug)]
pub(super) struct View {
    pub(super) picture: Snapshot,
    /// Why there is no newer picture.
    pub(super) trouble: Option<String>,
    pub(super) sort: Sort,
    /// Part of a name; empty: all services are shown.
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    pub(super) help: bool,
    /// The service whose callers are shown.
    pub(super) inside: Option<Place>,
    /// The service under the cursor, wherever it is in the table.
    selected: Option<Place>,
    /// Where the cursor was last.
    at: usize,
    /// The first row that is drawn.
    pub(super) offset: usize,
}

/// Services that a filter holds of, in an order.
pub(super) fn sorted<'a>(picture: &'a Snapshot, sort: Sort, filter: &str) -> Vec<&'a Asked> {
    let services = picture.services.iter();
    let mut services: Vec<&Asked> =
        services.filter(|asked| cells::place(&asked.service).contains(filter)).collect();
    services.sort_by(|a, b| a.service.cmp(&b.service));
    // whole millionths, which can be compared
    let key = |asked: &Asked| {
        let traffic = &asked.traffic;
        let of = match sort {
            Sort::Requests => traffic.requests_per_second,
            Sort::Errors => traffic.errors_per_second,
            Sort::P99 => traffic.p99_us.unwrap_or(-1.0),
            Sort::Name => 0.0,
        };
        Reverse((of * 1e6) as i64)
    };
    services.sort_by_key(|asked| key(asked));
    services
}

impl View {
    pub(super) fn new(picture: Snapshot, sort: Sort) -> View {
        View {
            picture,
            trouble: None,
            sort,
            filter: String::new(),
            typing: false,
            help: false,
            inside: None,
            selected: None,
            at: 0,
            offset: 0,
        }
    }

    /// Takes what the agent said.
    pub(super) fn update(&mut self, picture: Result<Snapshot, String>) {
        match picture {
            Ok(picture) => {
                self.picture = picture;
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    /// Services as they are shown.
    pub(super) fn services(&self) -> Vec<&Asked> {
        sorted(&self.picture, self.sort, &self.filter)
    }

    /// The row of the cursor: it stays with its service, else about where it was.
    pub(super) fn cursor(&mut self) -> usize {
        let services = self.services();
        let found = self
            .selected
            .as_ref()
            .and_then(|selected| services.iter().position(|asked| asked.service == *selected));
        let at = found.unwrap_or(self.at).min(services.len().saturating_sub(1));
        let selected = services.get(at).map(|asked| asked.service.clone());
        // whoever has not moved it stays at the top
        self.selected = if at == 0 { None } else { selected };
        self.at = at;
        at
    }

    fn go(&mut self, to: impl FnOnce(usize) -> usize) {
        let to = to(self.cursor());
        let services = self.services();
        let to = to.min(services.len().saturating_sub(1));
        let selected = services.get(to).map(|asked| asked.service.clone());
        (self.selected, self.at) = (selected, to);
    }

    /// Does what a key is for; `false`: the view is to end.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code != KeyCode::Char('c');
        }
        if self.typing {
            self.type_filter(key.code);
            return true;
        }
        match key.code {
            KeyCode::Char('q') => return false,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Esc => return self.back(),
            _ if self.help => self.help = false,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Requests => Sort::Errors,
                    Sort::Errors => Sort::P99,
                    Sort::P99 => Sort::Name,
                    Sort::Name => Sort::Requests,
                }
            }
            KeyCode::Char('/') => (self.typing, self.inside) = (true, None),
            KeyCode::Left | KeyCode::Backspace => self.inside = None,
            _ if self.inside.is_some() => {}
            KeyCode::Down | KeyCode::Char('j') => self.go(|at| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(|at| at.saturating_sub(1)),
            KeyCode::PageDown => self.go(|at| at + 10),
            KeyCode::PageUp => self.go(|at| at.saturating_sub(10)),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_| usize::MAX),
            KeyCode::Enter | KeyCode::Right => {
                let at = self.cursor();
                self.inside = self.services().get(at).map(|asked| asked.service.clone());
            }
            _ => {}
        }
        true
    }

    /// Leaves what was entered last; `false`: there is nothing left to leave.
    fn back(&mut self) -> bool {
        if self.help {
            self.help = false;
        } else if self.inside.take().is_none() {
            if self.filter.is_empty() {
                return false;
            }
            self.filter.clear();
        }
        true
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(c) => self.filter.push(c),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use beeway_telemetry::graph::{Edge, Share, Traffic};

    use super::*;

    fn place(name: &str) -> Place {
        Place { namespace: "shop".into(), name: name.into() }
    }

    fn traffic(rate: f64, lane: &str, total: u64) -> Traffic {
        Traffic {
            requests: (rate * 10.0) as u64,
            requests_per_second: rate,
            lanes: [(lane.to_owned(), rate)].into(),
            total,
            ..Traffic::default()
        }
    }

    fn edge(source: &str, destination: &str, rate: f64, lane: &str) -> Edge {
        Edge {
            source: place(source),
            destination: place(destination),
            host: format!("{destination}.shop.svc.cluster.local"),
            port: 80,
            protocol: "http".into(),
            traffic: traffic(rate, lane, 5),
            workloads: vec![Share {
                workload: format!("{destination}-v1"),
                version: "v1".into(),
                requests_per_second: rate,
                errors_per_second: 0.0,
                total: 5,
            }],
        }
    }

    /// Three services: busy, denied and idle.
    pub(in crate::top) fn picture() -> Snapshot {
        let mut web = traffic(10.0, "native", 500);
        (web.errors_per_second, web.p50_us) = (0.5, Some(1000.0));
        (web.p90_us, web.p99_us) = (Some(2000.0), Some(20_000.0));
        let mut db = traffic(2.0, "detour", 20);
        (db.denied_per_second, db.p50_us) = (1.0, Some(300.0));
        (db.p90_us, db.p99_us) = (Some(400.0), Some(1000.0));
        let idle = Traffic { total: 3, ..Traffic::default() };
        let mut all = traffic(12.0, "native", 523);
        all.lanes = [("native".into(), 10.0), ("detour".into(), 2.0)].into();
        (all.errors_per_second, all.denied_per_second) = (0.5, 1.0);
        (all.p50_us, all.p99_us) = (Some(1000.0), Some(20_000.0));
        Snapshot {
            window_seconds: 10.0,
            all,
            services: [("web", web), ("db", db), ("idle", idle)]
                .map(|(name, traffic)| Asked { service: place(name), traffic })
                .to_vec(),
            edges: vec![
                edge("orders", "web", 4.0, "native"),
                edge("front", "web", 6.0, "native"),
                edge("web", "db", 2.0, "detour"),
            ],
        }
    }

    pub(in crate::top) fn press(view: &mut View, code: KeyCode) -> bool {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn names(view: &View) -> Vec<&str> {
        view.services().iter().map(|asked| asked.service.name.as_str()).collect()
    }

    #[test]
    fn keys_sort_filter_and_look_inside() {
        let mut view = View::new(picture(), Sort::Requests);
        assert_eq!(names(&view), ["web", "db", "idle"]);
        press(&mut view, KeyCode::Char('s'));
        assert_eq!((view.sort, names(&view)), (Sort::Errors, vec!["web", "db", "idle"]));
        press(&mut view, KeyCode::Char('s'));
        press(&mut view, KeyCode::Char('s'));
        assert_eq!((view.sort, names(&view)), (Sort::Name, vec!["db", "idle", "web"]));
        press(&mut view, KeyCode::Down);
        press(&mut view, KeyCode::Enter);
        assert_eq!(view.inside, Some(place("idle")));
        assert!(press(&mut view, KeyCode::Esc) && view.inside.is_none());
        // what is typed is no command
        for c in "/q".chars() {
            assert!(press(&mut view, KeyCode::Char(c)));
        }
        assert_eq!((view.filter.as_str(), names(&view).len()), ("q", 0));
        press(&mut view, KeyCode::Enter);
        press(&mut view, KeyCode::Enter);
        assert_eq!(view.inside, None, "there is nothing to look into");
        assert!(press(&mut view, KeyCode::Esc), "the filter is left first");
        assert_eq!(names(&view).len(), 3);
        assert!(press(&mut view, KeyCode::Char('?')) && view.help);
        assert!(press(&mut view, KeyCode::Esc) && !view.help);
        assert!(!press(&mut view, KeyCode::Esc) && !press(&mut view, KeyCode::Char('q')));
        assert!(!view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn the_cursor_stays_with_its_service() {
        let mut view = View::new(picture(), Sort::Requests);
        press(&mut view, KeyCode::Char('j'));
        assert_eq!(view.cursor(), 1);
        let mut next = picture();
        next.services[1].traffic.requests_per_second = 20.0;
        next.services[2].traffic.requests_per_second = 30.0;
        view.update(Ok(next));
        assert_eq!(view.cursor(), 1);
        assert_eq!(names(&view), ["idle", "db", "web"]);
        view.sort = Sort::Name;
        assert_eq!(view.cursor(), 0);
        press(&mut view, KeyCode::End);
        assert_eq!(view.cursor(), 2);
        press(&mut view, KeyCode::PageUp);
        assert_eq!(view.cursor(), 0);
        // one that is gone leaves the cursor about there
        press(&mut view, KeyCode::End);
        let mut less = picture();
        less.services.truncate(1);
        view.update(Ok(less));
        assert_eq!(view.cursor(), 0);
        view.update(Ok(Snapshot::default()));
        assert_eq!(view.cursor(), 0);
        view.update(Err("gone".into()));
        assert_eq!(view.trouble.as_deref(), Some("gone"));
    }
}
