//! The CSV file, line by line: what is registered, or what is wrong with the line.

use std::fmt;
use std::io::{self, BufRead, Read as _};

use csv_core::{ReadRecordResult, Reader};
use uuid::Uuid;

use crate::logging::untrusted;
use crate::secret::Secret;

/// The longest line, in bytes. More than any key; so a file of another kind does not fill the memory.
const LONGEST: usize = 64 << 10;

/// More columns than there are names for.
const MOST_FIELDS: usize = 16;

/// The names of the columns.
pub(super) const COLUMNS: [&str; 3] = ["key", "identifier", "rotate"];

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A line that can be registered.
pub(super) struct Row {
    pub(super) line: u64,
    /// None: to be generated.
    pub(super) key: Option<Secret>,
    pub(super) identifier: Uuid,
    pub(super) rotate: bool,
}

/// What is wrong with a line. A key is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: u64,
    /// The column, if it is one alone.
    pub(super) column: Option<&'static str>,
    pub(super) text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Reads a file. A line is one record: so every mistake has its line, and a missing quotation mark costs one line.
pub(super) struct Table<R> {
    input: R,
    reader: Reader,
    /// Where each of [`COLUMNS`] is.
    places: [Option<usize>; COLUMNS.len()],
    fields: usize,
    line: u64,
    bytes: Vec<u8>,
    output: Vec<u8>,
}

impl<R: BufRead> Table<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The input's; within, everything that is wrong with the header.
    pub(super) fn open(input: R) -> io::Result<Result<Self, Vec<Mistake>>> {
        let mut table = Self {
            input,
            reader: Reader::new(),
            places: Default::default(),
            fields: 0,
            line: 0,
            bytes: Vec::new(),
            output: vec![0; LONGEST],
        };
        let header = match table.record()? {
            Some(Ok(header)) => header,
            Some(Err(mistake)) => return Ok(Err(vec![mistake])),
            None => Vec::new(),
        };
        let mistakes = table.read_header(&header);
        Ok(if mistakes.is_empty() { Ok(table) } else { Err(mistakes) })
    }

    fn read_header(&mut self, header: &[String]) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong =
            |column, text| mistakes.push(Mistake { line: self.line.max(1), column, text });
        for (place, name) in header.iter().enumerate() {
            let name = name.trim();
            match COLUMNS.iter().position(|column| name.eq_ignore_ascii_case(column)) {
                Some(column) if self.places[column].is_some() => {
                    wrong(Some(COLUMNS[column]), "there are two columns of this name".to_owned());
                }
                Some(column) => self.places[column] = Some(place),
                None => wrong(
                    None,
                    format!(
                        "\"{}\" is no column; expected a header such as key,identifier,rotate, separated \
                         by commas",
                        untrusted(name)
                    ),
                ),
            }
        }
        // A header of another kind has been complained about as a whole.
        if mistakes.is_empty() {
            for (column, name) in COLUMNS.iter().enumerate().take(2) {
                if self.places[column].is_none() {
                    mistakes.push(Mistake {
                        line: self.line.max(1),
                        column: Some(name),
                        text: "missing; the first line names the columns, such as key,identifier,rotate"
                            .into(),
                    });
                }
            }
        }
        self.fields = header.len();
        mistakes
    }

    /// The next line that is not empty.
    ///
    /// # Errors
    /// The input's.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<Row, Vec<Mistake>>>> {
        Ok(match self.record()? {
            None => None,
            Some(Ok(fields)) => Some(self.row(fields)),
            Some(Err(mistake)) => Some(Err(vec![mistake])),
        })
    }

    fn row(&self, mut fields: Vec<String>) -> Result<Row, Vec<Mistake>> {
        let line = self.line;
        if fields.len() != self.fields {
            let text = format!(
                "there are {} fields, and {} in the header; a comma within a field needs quotation \
                 marks around the field",
                fields.len(),
                self.fields
            );
            return Err(vec![Mistake { line, column: None, text }]);
        }
        let mut take =
            |column: usize| self.places[column].map(|place| std::mem::take(&mut fields[place]));
        let (key, identifier, rotate) = (take(0), take(1), take(2));
        let mut mistakes = Vec::new();
        let mut wrong = |column: usize, text: String| {
            mistakes.push(Mistake { line, column: Some(COLUMNS[column]), text });
        };
        let key = Secret::new(key.unwrap_or_default());
        if key.expose().trim() != key.expose() {
            wrong(0, "white space at an end of the key would be part of it; remove it".into());
        }
        let identifier = identifier.unwrap_or_default();
        let uuid = Uuid::try_parse(identifier.trim()).ok().filter(|uuid| !uuid.is_nil());
        if uuid.is_none() {
            let shown = untrusted(identifier.trim());
            wrong(
                1,
                format!(
                    "\"{shown}\"; expected a UUID such as 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11"
                ),
            );
        }
        let rotate = rotate.unwrap_or_default();
        let flag = match rotate.trim().to_ascii_lowercase().as_str() {
            "" | "false" | "no" | "0" => Some(false),
            "true" | "yes" | "1" => Some(true),
            _ => None,
        };
        if flag.is_none() {
            wrong(2, format!("\"{}\"; expected true or false", untrusted(rotate.trim())));
        }
        match (uuid, flag) {
            (Some(identifier), Some(rotate)) if mistakes.is_empty() => {
                let key = (!key.expose().is_empty()).then_some(key);
                Ok(Row { line, key, identifier, rotate })
            }
            _ => Err(mistakes),
        }
    }

    /// The fields of the next line that is not empty.
    fn record(&mut self) -> io::Result<Option<Result<Vec<String>, Mistake>>> {
        loop {
            self.line += 1;
            if !self.read_line()? {
                return Ok(None);
            }
            if self.line == 1 && self.bytes.starts_with(BYTE_ORDER_MARK) {
                self.bytes.drain(..BYTE_ORDER_MARK.len());
            }
            let wrong =
                |text: &str| Mistake { line: self.line, column: None, text: text.to_owned() };
            if self.bytes.len() >= LONGEST {
                let mistake = wrong("longer than 64 KiB; is this a CSV file of keys?");
                self.skip_line()?;
                return Ok(Some(Err(mistake)));
            }
            while self.bytes.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                self.bytes.pop();
            }
            if self.bytes.trim_ascii().is_empty() {
                continue;
            }
            self.bytes.push(b'\n');
            let mut ends = [0; MOST_FIELDS];
            let (result, read, _, count) =
                self.reader.read_record(&self.bytes, &mut self.output, &mut ends);
            let mistake = match result {
                ReadRecordResult::Record if read == self.bytes.len() => None,
                ReadRecordResult::Record => Some("a carriage return within the line; remove it"),
                ReadRecordResult::OutputEndsFull => Some("more than 16 fields"),
                _ => Some("a quotation mark is not closed; within a field it is written twice"),
            };
            if let Some(text) = mistake {
                let mistake = wrong(text);
                self.reader.reset();
                return Ok(Some(Err(mistake)));
            }
            let mut start = 0;
            let mut fields = Vec::with_capacity(count);
            for end in &ends[..count] {
                match std::str::from_utf8(&self.output[start..*end]) {
                    Ok(text) => fields.push(text.to_owned()),
                    Err(_) => {
                        return Ok(Some(Err(wrong("not UTF-8; save the file in that encoding"))));
                    }
                }
                start = *end;
            }
            return Ok(Some(Ok(fields)));
        }
    }

    /// One line, or as much of it as is taken; whether there was one.
    fn read_line(&mut self) -> io::Result<bool> {
        self.bytes.clear();
        let mut limited = self.input.by_ref().take(LONGEST as u64);
        Ok(limited.read_until(b'\n', &mut self.bytes)? > 0)
    }

    fn skip_line(&mut self) -> io::Result<()> {
        while !self.bytes.ends_with(b"\n") && self.read_line()? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11";

    /// Each line as `line key identifier rotate`, or what is wrong with it.
    fn read(text: &[u8]) -> Vec<String> {
        let mut table = match Table::open(text).unwrap() {
            Ok(table) => table,
            Err(mistakes) => return mistakes.iter().map(ToString::to_string).collect(),
        };
        let mut lines = Vec::new();
        while let Some(row) = table.next().unwrap() {
            match row {
                Ok(Row { line, key, identifier, rotate }) => {
                    let key = key.as_ref().map_or("-", |key| key.expose());
                    lines.push(format!("{line} {key} {identifier} {rotate}"));
                }
                Err(mistakes) => lines.extend(mistakes.iter().map(ToString::to_string)),
            }
        }
        lines
    }

    #[test]
    fn columns_are_found_by_their_names_and_fields_are_read_as_written() {
        let text = format!(
            "\u{feff}Identifier, rotate ,key\r\n{U},,\"a,\"\"b\"\"\"\r\n\r\n{},YES,k\n{U},0,",
            U.to_uppercase()
        );
        assert_eq!(
            read(text.as_bytes()),
            [format!("2 a,\"b\" {U} false"), format!("4 k {U} true"), format!("5 - {U} false")]
        );
        assert_eq!(read(format!("key,identifier\nk,{U}").as_bytes()), [format!("2 k {U} false")]);
    }

    #[test]
    fn every_mistake_has_its_line_its_column_and_a_remedy() {
        let text = format!(
            "key,identifier,rotate\nk,nobody,maybe\n k,{U},\n\"k,{U},\nk,{U}\nk,{U},,\nk,{U},1\n\
             k\rk,{U},\nk,00000000-0000-0000-0000-000000000000,\n"
        );
        assert_eq!(
            read(text.as_bytes()),
            [
                "line 2, column identifier: \"nobody\"; expected a UUID such as \
                 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11",
                "line 2, column rotate: \"maybe\"; expected true or false",
                "line 3, column key: white space at an end of the key would be part of it; remove it",
                "line 4: a quotation mark is not closed; within a field it is written twice",
                "line 5: there are 2 fields, and 3 in the header; a comma within a field needs \
                 quotation marks around the field",
                "line 6: there are 4 fields, and 3 in the header; a comma within a field needs \
                 quotation marks around the field",
                &format!("7 k {U} true"),
                "line 8: a carriage return within the line; remove it",
                "line 9, column identifier: \"00000000-0000-0000-0000-000000000000\"; expected a UUID \
                 such as 7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11",
            ]
        );
        let latin = [b"key,identifier\n\xe9,", U.as_bytes(), b"\n"].concat();
        assert_eq!(read(&latin), ["line 2: not UTF-8; save the file in that encoding"]);
    }

    #[test]
    fn a_header_is_required_and_checked() {
        for (header, wrong) in [
            ("", "line 1, column key: missing"),
            ("key\n", "line 1, column identifier: missing"),
            ("identifier,rotate\n", "line 1, column key: missing"),
            ("key,identifier,name\n", "line 1: \"name\" is no column; expected a header such as"),
            ("key;identifier\n", "line 1: \"key;identifier\" is no column; expected a header"),
            ("key,identifier,key\n", "line 1, column key: there are two columns of this name"),
            ("\"key,identifier\n", "line 1: a quotation mark is not closed"),
        ] {
            let found = read(header.as_bytes());
            assert!(found[0].starts_with(wrong), "{header:?}: {found:?}");
        }
    }

    #[test]
    fn a_line_without_end_costs_a_bounded_part_of_the_memory() {
        let mut text = format!("key,identifier\n{}", "x".repeat(3 * LONGEST));
        text.push_str(&format!("\nk,{U}\n"));
        assert_eq!(
            read(text.as_bytes()),
            ["line 2: longer than 64 KiB; is this a CSV file of keys?", &format!("3 k {U} false")]
        );
    }
}
