//! Draws a [`View`].

use beeway_telemetry::filter::LANES;
use beeway_telemetry::graph::{Edge, Place, Share, Traffic};
use beeway_telemetry::names::UNKNOWN;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use super::view::View;
use super::{cells, detail};
use crate::cli::Sort;
use crate::output;

/// Cells of a bar of lanes.
const BAR: u16 = 16;

const HELP: &str = "\
up, down, j, k     select a service
Enter              its callers and workloads
Esc                back; at the top: end
s                  sort by requests, errors, p99 or name
/                  show services whose name contains ...
q, Ctrl-C          end
?                  this

Rates and percentiles are about the window named
above. ERRORS are answers of 500 and more, or
requests without one. A workload `unknown` is
nobody: the request was answered or refused.";

/// Draws all of it.
pub(super) fn draw(view: &mut View, frame: &mut Frame<'_>) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(header(view), head);
    match view.inside.clone() {
        Some(service) => inside(view, &service, frame, body),
        None => services(view, frame, body),
    }
    frame.render_widget(footer(view), foot);
    if view.help {
        help(frame, body);
    }
}

fn header(view: &View) -> Text<'static> {
    let all = &view.picture.all;
    let window = view.picture.window_seconds.round();
    let mut title = vec!["beeway top".bold(), format!("  the last {window} s").into()];
    if let Some(trouble) = &view.trouble {
        title.push("  ".into());
        title.push(output::printable(trouble).red().bold());
    }
    let number = |name: &str, value: String| [value.bold(), format!(" {name}  ").into()];
    let percentile =
        |name: &str, us| [format!("{name} ").into(), format!("{}  ", cells::duration(us)).bold()];
    let alarm = |name: &str, rate: f64| {
        let [value, name] = number(name, cells::rate(rate));
        [if rate > 0.0 { value.red() } else { value }, name]
    };
    let sums = [
        number("requests/s", cells::rate(all.requests_per_second)),
        alarm("errors/s", all.errors_per_second),
        alarm("denied/s", all.denied_per_second),
        percentile("p50", all.p50_us),
        percentile("p99", all.p99_us),
    ];
    let mut lanes = Vec::new();
    for (lane, part) in cells::lanes(all) {
        lanes.push(Span::styled(mark(lane), colour(lane)));
        lanes.push(format!(" {} {}  ", output::printable(lane), cells::share(part, 1.0)).into());
    }
    if lanes.is_empty() {
        lanes.push(match view.picture.services.is_empty() {
            true => "no traffic yet".into(),
            false => format!("no traffic in the last {window} s").into(),
        });
    }
    let sums: Vec<Span> = sums.into_iter().flatten().collect();
    Text::from(vec![Line::from(title), Line::from(sums), Line::from(lanes), Line::default()])
}

fn footer(view: &View) -> Line<'static> {
    if view.typing {
        return Line::from(format!("/{}\u{2588}", output::printable(&view.filter)));
    }
    let mut text = match view.inside {
        Some(_) => "q end  Esc back  ? help".to_owned(),
        None => "q end  Enter callers  s sort  / filter  ? help".to_owned(),
    };
    if !view.filter.is_empty() {
        text += &format!("  [{}]", output::printable(&view.filter));
    }
    Line::from(text).dim()
}

fn services(view: &mut View, frame: &mut Frame<'_>, area: Rect) {
    let cursor = view.cursor();
    let mut state = TableState::new().with_selected(Some(cursor)).with_offset(view.offset);
    let rows = view.services().into_iter();
    let rows = rows.map(|asked| (cells::place(&asked.service), &asked.traffic)).collect();
    let table = table("SERVICE", rows, Some(view.sort), area.width);
    frame.render_stateful_widget(table.row_highlight_style(Modifier::REVERSED), area, &mut state);
    view.offset = state.offset();
}

/// Cells of a number.
const NUMBER: u16 = 8;

/// Where there is less, not all percentiles are shown.
const NARROW: u16 = 76;

/// Names with their traffic. What they are sorted by is underlined.
fn table(
    what: &'static str,
    rows: Vec<(String, &Traffic)>,
    sort: Option<Sort>,
    width: u16,
) -> Table<'static> {
    let bar_width = if width < 100 { BAR / 2 } else { BAR };
    let head = [
        (what, Some(Sort::Name)),
        ("REQ/S", Some(Sort::Requests)),
        ("ERRORS", Some(Sort::Errors)),
        ("DENIED/S", None),
        ("P99", Some(Sort::P99)),
        ("P50", None),
        ("P90", None),
    ];
    let shown = if width < NARROW { 5 } else { head.len() };
    let head = head.into_iter().take(shown).map(|(name, by)| match by.is_some() && by == sort {
        true => Line::from(name).underlined(),
        false => Line::from(name),
    });
    let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let widths = widths(longest, shown as u16 - 1, bar_width, width);
    let rows = rows.into_iter().map(|(name, traffic)| {
        let texts = [
            name,
            cells::rate(traffic.requests_per_second),
            cells::share(traffic.errors_per_second, traffic.requests_per_second),
            cells::rate(traffic.denied_per_second),
            cells::duration(traffic.p99_us),
            cells::duration(traffic.p50_us),
            cells::duration(traffic.p90_us),
        ];
        let texts = texts.into_iter().take(shown).map(Line::from);
        warned(row(texts, Some(bar(traffic, bar_width))), traffic)
    });
    Table::new(rows, widths).header(row(head, Some("LANES".into())).bold())
}

/// Of a name, numbers and a bar. Where there is no room for all, names are cut.
fn widths(name: usize, numbers: u16, bar: u16, width: u16) -> Vec<Constraint> {
    let room = width.saturating_sub(numbers * (NUMBER + 1) + bar + 1).max(12);
    let name = u16::try_from(name.max(8)).unwrap_or(room).min(room);
    let numbers = std::iter::repeat_n(NUMBER, usize::from(numbers));
    std::iter::once(name).chain(numbers).chain([bar]).map(Constraint::Length).collect()
}

/// Names stand left, numbers right.
fn row(texts: impl IntoIterator<Item = Line<'static>>, bar: Option<Line<'static>>) -> Row<'static> {
    let aligned = |(at, text): (usize, Line<'static>)| match at {
        0 => Cell::from(text),
        _ => Cell::from(text.alignment(Alignment::Right)),
    };
    Row::new(texts.into_iter().enumerate().map(aligned).chain(bar.map(Cell::from)))
}

/// Red where there are errors, yellow where something is denied.
fn warned(row: Row<'static>, traffic: &Traffic) -> Row<'static> {
    if traffic.errors_per_second > 0.0 {
        row.red()
    } else if traffic.denied_per_second > 0.0 {
        row.yellow()
    } else {
        row
    }
}

fn bar(traffic: &Traffic, width: u16) -> Line<'static> {
    let parts = cells::bar(&cells::lanes(traffic), usize::from(width));
    let spans = parts.into_iter();
    spans.map(|(lane, cells)| Span::styled(mark(lane).repeat(cells), colour(lane))).collect()
}

/// Lanes are told apart without colours too.
fn mark(lane: &str) -> &'static str {
    let marks = ["\u{2588}", "\u{2593}", "\u{2592}", "\u{2591}", "x"];
    LANES.iter().position(|known| *known == lane).map_or("?", |at| marks[at])
}

fn colour(lane: &str) -> Style {
    let colours = [Color::Green, Color::Cyan, Color::Yellow, Color::Blue, Color::Red];
    let known = LANES.iter().position(|known| *known == lane);
    known.map_or(Style::new(), |at| Style::new().fg(colours[at]))
}

fn inside(view: &View, service: &Place, frame: &mut Frame<'_>, area: Rect) {
    let callers = detail::callers(&view.picture, service);
    let shares = detail::workloads(&view.picture, service);
    let below = u16::try_from(shares.len() + 2).unwrap_or(u16::MAX).min(area.height / 2);
    let [title, above, below] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(below)])
            .areas(area);
    let mut names: Vec<Span> = vec![cells::place(service).bold()];
    if let Some(edge) = callers.first() {
        names.push(format!("  {}", output::printable(&edge.host)).into());
    }
    frame.render_widget(Line::from(names), title);
    let rows = callers.into_iter().map(|edge| (caller(edge), &edge.traffic)).collect();
    frame.render_widget(table("CALLER", rows, None, above.width), above);
    frame.render_widget(workloads(&shares, below.width), below);
}

/// Who calls, and to which port.
fn caller(edge: &Edge) -> String {
    let protocol = output::printable(&edge.protocol);
    format!("{} to {}/{protocol}", cells::place(&edge.source), edge.port)
}

fn workloads(shares: &[Share], width: u16) -> Table<'static> {
    let head = ["WORKLOAD", "REQ/S", "ERRORS", "TOTAL"].map(Line::from);
    let name = |share: &Share| match share.version.as_str() {
        "" | UNKNOWN => output::printable(&share.workload),
        version => output::printable(&format!("{} {version}", share.workload)),
    };
    let longest = shares.iter().map(|share| name(share).chars().count()).max().unwrap_or(0);
    let rows = shares.iter().map(|share| {
        let texts = [
            name(share),
            cells::rate(share.requests_per_second),
            cells::share(share.errors_per_second, share.requests_per_second),
            share.total.to_string(),
        ];
        row(texts.map(Line::from), None)
    });
    Table::new(rows, widths(longest, 3, 0, width)).header(row(head, None).bold())
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let height = HELP.lines().count() as u16 + 2;
    let width = HELP.lines().map(str::len).max().unwrap_or(0) as u16 + 4;
    let area = Rect { width, height, ..area }.intersection(area);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" keys ")), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    use beeway_telemetry::graph::Asked;

    use super::*;
    use crate::top::view::tests::{picture, press};

    fn terminal(width: u16, height: u16) -> Terminal<TestBackend> {
        Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory")
    }

    /// Lines as drawn, without blanks at their ends.
    fn drawn(terminal: &mut Terminal<TestBackend>, view: &mut View) -> Vec<String> {
        terminal.draw(|frame| draw(view, frame)).expect("memory takes all");
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let symbols: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
        symbols.chunks(width).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    #[test]
    fn services_are_drawn_with_sums_and_lanes() {
        let mut view = View::new(picture(), Sort::Requests);
        let mut terminal = terminal(100, 12);
        let lines = drawn(&mut terminal, &mut view);
        let wanted = [
            "beeway top  the last 10 s",
            "12.0 requests/s  0.50 errors/s  1.00 denied/s  p50 1.00 ms  p99 20 ms",
            "\u{2588} native 83 %  \u{2592} detour 17 %",
            "",
            "SERVICE      REQ/S   ERRORS DENIED/S      P99      P50      P90 LANES",
            "shop/web      10.0    5.0 %        0    20 ms  1.00 ms  2.00 ms \
             \u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\
             \u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}",
            "shop/db       2.00      0 %     1.00  1.00 ms   300 us   400 us \
             \u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\
             \u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\u{2592}\u{2592}",
            "shop/idle        0        -        0        -        -        -",
        ];
        assert_eq!(lines[..8], wanted, "{lines:#?}");
        assert!(lines[11].starts_with("q end  Enter callers"), "{lines:#?}");
        let buffer = terminal.backend().buffer();
        assert!(buffer[(0, 5)].modifier.contains(Modifier::REVERSED), "the cursor is seen");
        assert!(buffer[(0, 5)].fg == Color::Red && buffer[(0, 6)].fg == Color::Yellow);
        assert_eq!(buffer[(70, 6)].fg, Color::Yellow);
    }

    #[test]
    fn a_service_is_drawn_with_callers_and_workloads() {
        let mut view = View::new(picture(), Sort::Requests);
        let mut terminal = terminal(100, 20);
        press(&mut view, KeyCode::Enter);
        let text = drawn(&mut terminal, &mut view).join("\n");
        let order = ["shop/web  web.shop.svc", "CALLER", "shop/front", "shop/orders", "WORKLOAD"];
        let found: Vec<_> = order.iter().map(|part| text.find(part)).collect();
        assert!(found.is_sorted() && found[0].is_some(), "{found:?}\n{text}");
        let workload = text.lines().find(|line| line.starts_with("web-v1")).expect("a workload");
        let parts: Vec<_> = workload.split_whitespace().collect();
        assert_eq!(parts, ["web-v1", "v1", "10.0", "0", "%", "10"], "both callers together");
    }

    #[test]
    fn whatever_the_size_something_is_drawn() {
        let mut view = View::new(picture(), Sort::P99);
        view.help = true;
        view.update(Err("the agent\x1b[2J is gone".into()));
        for (width, height) in [(1, 1), (3, 40), (200, 2), (20, 6), (80, 24), (300, 100)] {
            for key in [KeyCode::Enter, KeyCode::Char('?'), KeyCode::Esc, KeyCode::Char('/')] {
                press(&mut view, key);
                drawn(&mut terminal(width, height), &mut view);
            }
            view.typing = false;
        }
        let mut view = View::new(Default::default(), Sort::Name);
        view.update(Err("the agent\x1b[2J is gone".into()));
        let lines = drawn(&mut terminal(80, 24), &mut view);
        assert_eq!(lines[0], "beeway top  the last 0 s  the agent\\u{1b}[2J is gone");
        assert_eq!(lines[2], "no traffic yet");
    }

    #[test]
    fn names_are_cut_before_numbers() {
        let mut view = View::new(picture(), Sort::Requests);
        view.picture.services[0].service.name = "a-name-that-is-longer-than-there-is-room".into();
        for (width, name, numbers) in [(100, 29, 6), (80, 17, 6), (60, 15, 4)] {
            let lines = drawn(&mut terminal(width, 12), &mut view);
            let whole = "shop/a-name-that-is-longer-than-there-is-room";
            let all = ["10.0", "5.0 %", "0", "20 ms", "1.00 ms", "2.00 ms"];
            let numbers: String = all[..numbers].iter().map(|text| format!(" {text:>8}")).collect();
            let wanted = format!("{}{numbers} \u{2588}", &whole[..name]);
            assert!(lines[5].starts_with(&wanted), "{width}: {lines:#?}");
        }
    }

    #[test]
    fn many_services_scroll() {
        let mut view = View::new(picture(), Sort::Name);
        let many = (0..200).map(|n| Asked {
            service: Place { namespace: "shop".into(), name: format!("s{n:03}") },
            traffic: Traffic::default(),
        });
        view.picture.services = many.collect();
        let mut terminal = terminal(80, 24);
        assert!(drawn(&mut terminal, &mut view).join("\n").contains("shop/s000"));
        press(&mut view, KeyCode::End);
        let text = drawn(&mut terminal, &mut view).join("\n");
        assert!(text.contains("shop/s199") && !text.contains("shop/s000"), "{text}");
        press(&mut view, KeyCode::Up);
        let text = drawn(&mut terminal, &mut view).join("\n");
        assert!(text.contains("shop/s199"), "it scrolls no more than it must: {text}");
    }
}
