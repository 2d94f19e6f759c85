//! `beeway completions` and `beeway man`: made from the one table of commands in [`crate::cli`].

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::output;

/// Prints a completion script.
pub fn completions(shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "beeway", &mut script);
    print(script)
}

/// Prints one man page: the program, then each command.
pub fn man() -> Result<ExitCode> {
    let mut program = Cli::command();
    program.build();
    let mut page = Vec::new();
    let man = Man::new(program.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    for command in program.get_subcommands() {
        render(command, &mut page)?;
    }
    man.render_extra_section(&mut page)?;
    print(page)
}

fn render(command: &Command, page: &mut Vec<u8>) -> Result<()> {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_uppercase();
    page.extend(format!(".SH \"{name}\"\n").bytes());
    // mangen makes a page for each command; its sections become parts of ours
    let man = Man::new(command.clone());
    let mut part = Vec::new();
    man.render_synopsis_section(&mut part)?;
    man.render_description_section(&mut part)?;
    man.render_options_section(&mut part)?;
    let part = String::from_utf8(part).context("render the man page")?;
    page.extend(part.replace(".SH ", ".SS ").bytes());
    Ok(())
}

fn print(bytes: Vec<u8>) -> Result<ExitCode> {
    output::text(&String::from_utf8(bytes).context("render text")?)?;
    Ok(ExitCode::SUCCESS)
}
