//! Parts of an HTML page. Arguments are HTML already; text from files is escaped by [`super::escape`].

use super::colour::variables;
use super::escape::escape;

/// Style sheet of the page.
const STYLE: &str = include_str!("page.css");

/// Column of a table by its title.
#[derive(Clone, Debug)]
pub enum Column {
    /// Words, aligned to the left.
    Words(String),
    /// Numbers, aligned to the right.
    Numbers(String),
}

/// Column of words.
pub fn words(title: &str) -> Column {
    Column::Words(title.into())
}

/// Column of numbers.
pub fn numbers(title: &str) -> Column {
    Column::Numbers(title.into())
}

/// Table of rows, each with a CSS class, which may be empty.
pub fn table(columns: &[Column], body: &[(&str, Vec<String>)]) -> String {
    let cell = |tag: &str, column: &Column, cell: &str| match column {
        Column::Words(_) => format!("<{tag} class=\"words\">{cell}</{tag}>"),
        Column::Numbers(_) => format!("<{tag}>{cell}</{tag}>"),
    };
    let head = |column: &Column| match column {
        Column::Words(title) | Column::Numbers(title) => cell("th", column, title),
    };
    let head: String = columns.iter().map(head).collect();
    let mut text = format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for (class, row) in body {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let cells: String = columns.iter().zip(row).map(|(column, text)| cell("td", column, text)).collect();
        text += &format!("<tr{class}>{cells}</tr>\n");
    }
    text + "</tbody></table></div>\n"
}

/// List of names with their values.
pub fn facts(facts: &[(&str, String)]) -> String {
    let item = |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>");
    format!("<dl class=\"facts\">{}</dl>\n", facts.iter().map(item).collect::<Vec<_>>().concat())
}

/// Picture with its caption.
pub fn figure(picture: &str, caption: &str) -> String {
    format!("<figure><div class=\"plot\">{picture}</div><figcaption>{caption}</figcaption></figure>\n")
}

/// Picture as wide as the page, with its caption.
pub fn wide_figure(picture: &str, caption: &str) -> String {
    format!("<figure><div class=\"plot wide\">{picture}</div><figcaption>{caption}</figcaption></figure>\n")
}

/// Box with warnings, which are plain text; empty if there are none.
pub fn warning_box(title: &str, warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let items: String = warnings.iter().map(|warning| format!("<li>{}</li>", escape(warning))).collect();
    format!("<div class=\"warning\" role=\"alert\"><b>{title}</b><ul>{items}</ul></div>\n")
}

/// Whole page with colours for `series` series. Its content security policy forbids scripts and everything that would
/// be loaded.
pub fn page(title: &str, body: &str, series: usize) -> String {
    let title = escape(title);
    let [light, dark] = variables(series);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n\
         :root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}
