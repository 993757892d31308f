//! Escaping of text in HTML.

/// Text as HTML shows it, in an attribute, too. All text from files goes through this function.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_become_text() {
        assert_eq!(escape("a & b"), "a &amp; b");
        assert_eq!(escape("<script>alert('x')</script>"), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;");
        assert_eq!(escape("\" onload=\""), "&quot; onload=&quot;");
        assert_eq!(escape("a\u{0}\u{1b}[31m\u{7f}\n"), "a\u{fffd}\u{fffd}[31m\u{fffd}\n");
        assert_eq!(escape("ε 8/255 – 図"), "ε 8/255 – 図");
    }
}
