//! The excerpt for the project's README. Pure.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{detour, markdown, routes};
use crate::results::Results;

/// What stands before and behind the excerpt.
const MARK: &str = "<!-- bench -->\n";

/// The numbers of connections whose tables are shown.
const SHOWN: [u32; 2] = [1, 64];

/// The text with what stands between its two marks made anew.
pub fn renew(text: &str, results: &Results) -> Result<String> {
    let no_marks = || format!("there are no two lines {:?}", MARK.trim());
    let (before, rest) = text.split_once(MARK).with_context(no_marks)?;
    let (_, after) = rest.split_once(MARK).with_context(no_marks)?;
    Ok([before, MARK, &excerpt(results), MARK, after].concat())
}

fn excerpt(results: &Results) -> String {
    let machine = &results.machine;
    // "Linux 6.18.44-x #1 SMP" is Linux 6.18.
    let kernel: Vec<&str> = machine.kernel.split('.').take(2).collect();
    let mut text = format!(
        "`{}`, {} CPUs ({}), {}, nginx and wrk, two pods of one node;\ninterleaved, medians of {}. All \
         cells, raw results and the reasons for what was missed:\n\
         [bench/results](bench/results/README.md).\n\n",
        results.command.trim_start_matches("./"),
        machine.cpus,
        machine.cpu,
        kernel.join("."),
        results.settings.rounds
    );
    text += &markdown::aims(results);
    for connections in SHOWN {
        let place = match connections {
            1 => "At 1 connection, everything on one core".to_owned(),
            n => format!("At {n} connections, client and server on a core each"),
        };
        let rows = markdown::keep_alive(results, connections);
        let _ = write!(text, "\n{place}:\n\n{rows}");
    }
    text += "\n![Requests per second](bench/results/requests.svg)\n";
    if let Some(detour) = &results.detour {
        text += "\nThe detour beside other proxies on the node with the same rules: a header route, and \
                 a header added. ";
        text += &detour::overview(detour);
    }
    if let Some(routes) = &results.routes {
        text += "\nCost over the number of routes, all of them asked for in turn:\n\n\
                 ![Cost over routes](bench/results/routes.svg)\n\n";
        text += &routes::table(routes, 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detour::summary::tests::example as detour;
    use crate::routes::summary::tests::example as routes;
    use crate::summary::tests::example;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let mut results = example();
        results.machine.kernel = "Linux 6.18.44-x #1 SMP".into();
        results.machine.cpu = "Example".into();
        results.routes = Some(routes(1.0));
        results.detour = Some(detour());
        let old = "# Title\n<!-- bench -->\nold\n<!-- bench -->\nend\n";
        let new = renew(old, &results).expect("two marks");
        assert!(new.starts_with(
            "# Title\n<!-- bench -->\n`beeway-bench run`, 0 CPUs (Example), Linux 6.18,"
        ));
        assert!(new.ends_with("<!-- bench -->\nend\n") && !new.contains("old"));
        assert!(new.contains("| Beeway native (3 errors) |"), "{new}");
        assert!(new.contains("a header added. HTTP/1.1, keep-alive connections:\n\n| | at 64:"));
        assert!(new.contains("(bench/results/routes.svg)\n\n| routes |"));
        assert_eq!(renew(&new, &results).expect("two marks"), new);
        assert!(renew("no marks", &results).is_err());
    }
}
