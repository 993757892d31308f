//! Pieces of HTML. Whatever comes from a file goes through [`escape`] before it stands in a page.

use super::plot::variables;

/// How the page looks.
const STYLE: &str = include_str!("page.css");

/// Text as HTML shows it, in an attribute too.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML has no such characters.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A column of a table: its title, as HTML, and what it has.
#[derive(Clone, Debug)]
pub enum Column {
    /// Words, which begin at the left.
    Words(String),
    /// Numbers, which end at the right.
    Numbers(String),
}

/// A column of words.
pub fn words(title: &str) -> Column {
    Column::Words(title.into())
}

/// A column of numbers.
pub fn numbers(title: &str) -> Column {
    Column::Numbers(title.into())
}

/// A table of cells that are HTML already; a row has a class, which may be empty.
pub fn table(columns: &[Column], rows: &[(&str, Vec<String>)]) -> String {
    let cell = |tag: &str, column: &Column, cell: &str| match column {
        Column::Words(_) => format!("<{tag} class=\"words\">{cell}</{tag}>"),
        Column::Numbers(_) => format!("<{tag}>{cell}</{tag}>"),
    };
    let head = |column: &Column| match column {
        Column::Words(title) | Column::Numbers(title) => cell("th", column, title),
    };
    let head: String = columns.iter().map(head).collect();
    let mut text = format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for (class, row) in rows {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let cells: String = columns.iter().zip(row).map(|(column, text)| cell("td", column, text)).collect();
        text += &format!("<tr{class}>{cells}</tr>\n");
    }
    text + "</tbody></table></div>\n"
}

/// A list of names and what they are, both HTML already.
pub fn facts(facts: &[(&str, String)]) -> String {
    let item = |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>");
    format!("<dl class=\"facts\">{}</dl>\n", facts.iter().map(item).collect::<Vec<_>>().concat())
}

/// A picture with what is to be said of it, which is HTML already.
pub fn figure(picture: &str, caption: &str) -> String {
    format!("<figure>{picture}<figcaption>{caption}</figcaption></figure>\n")
}

/// A whole page. It loads nothing and runs nothing, and says so to the browser.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    let [light, dark] = variables();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n\
         :root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_wherever_it_stands() {
        assert_eq!(escape("a & b"), "a &amp; b");
        assert_eq!(escape("<script>alert('x')</script>"), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;");
        assert_eq!(escape("\" onload=\""), "&quot; onload=&quot;");
        assert_eq!(escape("a\u{0}\u{1b}[31m\u{7f}\n"), "a\u{fffd}\u{fffd}[31m\u{fffd}\n");
        assert_eq!(escape("ε 8/255 – 図"), "ε 8/255 – 図");
    }
}
