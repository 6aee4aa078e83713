//! Standard output and standard error, without a panic when nobody reads them.

use std::io::{self, IsTerminal, Write};

use super::failure::{Failure, code, output_failed};

/// Writes an answer.
pub(crate) fn print(text: &str) -> Result<u8, Failure> {
    write_bytes(text.as_bytes())?;
    Ok(code::DONE)
}

/// Writes an answer that may be any bytes, and flushes it.
pub(crate) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(output_failed)
}

/// Writes an answer for a program: one JSON value and the end of a line.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<u8, Failure> {
    print(&format!("{value:#}\n"))
}

/// Says something about the verb itself. Where standard error is closed there is nobody to tell.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person types standard input.
pub(crate) fn is_asked_on_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output wants colours: only on a terminal, and not with `NO_COLOR` (see
/// no-color.org) or `TERM=dumb`.
pub(crate) fn color_on_stdout() -> bool {
    io::stdout().is_terminal() && colors_are_wanted()
}

/// The same for standard error.
pub(crate) fn color_on_stderr() -> bool {
    io::stderr().is_terminal() && colors_are_wanted()
}

fn colors_are_wanted() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Lines of columns, each as wide as its widest cell; the last is not padded.
pub(crate) fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let padding = width + 2 - cell.chars().count();
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        let rows: Vec<Vec<String>> = vec![row(&["a", "bb", "°C"]), row(&["ccc", "", "d"])];
        assert_eq!(columns(&rows, "  "), "  a    bb  °C\n  ccc      d\n");
    }
}
