//! Reads a file with codes: CSV without quotes, with the columns `code` and `discount`, or only `code`.
//!
//! # Guarantees
//! Memory does not depend on the file: lines are limited, and so is the number of reported problems. A file that was
//! truncated on its way is refused: the last line must end with a line break, and the number of codes must match. The
//! end of a compressed file has a checksum.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read},
};

use couponry_domain::{CouponBatch, Discount, code::CouponCode, code_statistic::CodeStatistic};
use couponry_postgres::{CodeFile, CodeLine};
use flate2::bufread::MultiGzDecoder;
use ring::digest::{Context, SHA256};

/// Bytes of a line, including the line break: a code has at most 64 characters, a discount 18.
const MAX_LINE: u64 = 128;
/// How many problems are reported.
const MAX_PROBLEMS: usize = 20;
/// Lines per chunk.
const CHUNK_LEN: usize = 10_000;
const BUFFER: usize = 64 * 1024;
/// The first byte of a gzip file, which no text has.
const GZIP_MAGIC: u8 = 0x1f;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A file that was read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadFile {
    pub(super) file: CodeFile,
    /// What is wrong with it: complete sentences, without codes.
    pub(super) problems: Vec<String>,
}

/// Reads the file to its end, and sends its lines in chunks, at most as many as the batch has coupons. `send` returns
/// whether to send more.
///
/// Fails if the file cannot be read. Everything that is wrong with its content is a problem in the result.
pub(super) fn read(
    input: impl Read,
    batch: &CouponBatch,
    mut send: impl FnMut(Vec<CodeLine>) -> bool,
) -> io::Result<ReadFile> {
    let mut input = BufReader::with_capacity(BUFFER, Hashing { input, hash: Context::new(&SHA256) });
    let (problems, statistic) = if input.fill_buf()?.first() == Some(&GZIP_MAGIC) {
        read_lines(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(&mut input)), batch, &mut send)?
    } else {
        read_lines(&mut input, batch, &mut send)?
    };
    // All of the file is hashed.
    io::copy(&mut input, &mut io::sink())?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(input.into_inner().hash.finish().as_ref());
    let guess_bits = statistic.guess_bits();
    Ok(ReadFile { file: CodeFile { sha256, guess_bits }, problems: problems.into_sentences() })
}

/// What is wrong with a file.
#[derive(Default)]
struct Problems {
    sentences: Vec<String>,
    count: u64,
}

impl Problems {
    fn add(&mut self, line: u64, problem: &str) {
        self.count += 1;
        if self.sentences.len() < MAX_PROBLEMS {
            self.sentences.push(format!("line {line}: {problem}"));
        }
    }

    fn into_sentences(mut self) -> Vec<String> {
        let more = self.count - self.sentences.len() as u64;
        if more > 0 {
            self.sentences.push(format!("and {more} more lines"));
        }
        self.sentences
    }
}

fn read_lines(
    mut input: impl BufRead,
    batch: &CouponBatch,
    send: &mut impl FnMut(Vec<CodeLine>) -> bool,
) -> io::Result<(Problems, CodeStatistic)> {
    let by_text: HashMap<String, Discount> =
        batch.counts.iter().map(|(discount, _)| (discount.to_string(), *discount)).collect();
    let only_discount = if let [(discount, _)] = batch.counts[..] { Some(discount) } else { None };
    let mut problems = Problems::default();
    let mut statistic = CodeStatistic::default();
    let mut found: HashMap<Discount, u64> = HashMap::new();
    let (mut chunk, mut taken, mut is_wanted) = (Vec::with_capacity(CHUNK_LEN), 0, true);
    let mut has_discounts = None;
    let mut bytes = Vec::with_capacity(256);
    let mut number = 0;
    loop {
        bytes.clear();
        let len = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        if len == 0 {
            break;
        }
        number += 1;
        if bytes.pop_if(|last| *last == b'\n').is_none() {
            if len as u64 == MAX_LINE {
                input.skip_until(b'\n')?;
                problems.add(number, "the line is too long");
            } else {
                let problem =
                    "the line does not end with a line break, so the file may be truncated: add the line break";
                problems.add(number, problem);
            }
            continue;
        }
        bytes.pop_if(|last| *last == b'\r');
        let Some(has_discounts) = has_discounts else {
            let names = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
            match (names, only_discount) {
                (b"code,discount", _) => has_discounts = Some(true),
                (b"code", Some(_)) => has_discounts = Some(false),
                (b"code", None) => {
                    let discounts = batch.counts.len();
                    problems
                        .add(number, &format!("the event has {discounts} discounts: name the columns code,discount"));
                    break;
                }
                _ => {
                    problems
                        .add(number, "the first line must be the names of the columns: code,discount, or only code");
                    break;
                }
            }
            continue;
        };
        match parse(&bytes, has_discounts, only_discount, &by_text) {
            Ok((code, discount)) => {
                statistic.add(&code);
                *found.entry(discount).or_default() += 1;
                if is_wanted && taken < batch.len() {
                    taken += 1;
                    chunk.push(CodeLine { line: number, code, discount });
                    if chunk.len() == CHUNK_LEN {
                        is_wanted = send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_LEN)));
                    }
                }
            }
            Err(problem) => {
                problems.add(number, &problem);
                is_wanted = false;
            }
        }
    }
    if is_wanted && !chunk.is_empty() {
        send(chunk);
    }
    if problems.count == 0 {
        for (discount, expected) in &batch.counts {
            let found = found.get(discount).copied().unwrap_or_default();
            if found != *expected {
                problems.count += 1;
                let problem = format!("the file has {found} codes of {discount}, but the event needs {expected}");
                problems.sentences.push(problem);
            }
        }
    }
    Ok((problems, statistic))
}

fn parse(
    line: &[u8],
    has_discounts: bool,
    only_discount: Option<Discount>,
    by_text: &HashMap<String, Discount>,
) -> Result<(CouponCode, Discount), String> {
    let line = str::from_utf8(line).map_err(|_| "the text is not UTF-8".to_owned())?;
    let mut columns = line.split(',');
    let code = columns.next().unwrap_or_default();
    let discount = columns.next();
    if discount.is_some() != has_discounts || columns.next().is_some() {
        return Err(format!("expected {}", if has_discounts { "two columns" } else { "one column" }));
    }
    let code = code.parse::<CouponCode>().map_err(|error| error.to_string())?;
    let discount = match discount {
        Some(text) => by_text.get(text).copied(),
        None => only_discount,
    };
    let discount = discount.ok_or_else(|| {
        let mut known: Vec<&str> = by_text.keys().map(String::as_str).collect();
        known.sort_unstable();
        format!("the event has no such discount: expected {}", known.join(" or "))
    })?;
    Ok((code, discount))
}

/// Hashes what is read.
struct Hashing<R> {
    input: R,
    hash: Context,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use couponry_domain::DiscountType::{Amount, Percent};
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const TEN_PERCENT: Discount = Discount { kind: Percent, value: 10 };
    const FIVE_THOUSAND: Discount = Discount { kind: Amount, value: 5000 };

    fn read_file(input: impl Read, counts: &[(Discount, u64)]) -> (Vec<String>, Vec<CodeLine>) {
        let mut lines = Vec::new();
        let batch = CouponBatch { first_ordinal: 0, counts: counts.to_vec() };
        let send = |chunk| {
            lines.extend::<Vec<CodeLine>>(chunk);
            true
        };
        (read(input, &batch, send).unwrap().problems, lines)
    }

    fn problems(file: &[u8]) -> Vec<String> {
        read_file(file, &[(TEN_PERCENT, 1), (FIVE_THOUSAND, 1)]).0
    }

    /// A reader that returns one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(1);
            self.0.read(&mut buffer[..len])
        }
    }

    fn compressed(file: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(file).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn file_is_read_in_every_accepted_form() {
        let expected = [(2, "AAAA-1", FIVE_THOUSAND), (3, "BBBB-2", TEN_PERCENT)]
            .map(|(line, code, discount)| CodeLine { line, code: code.parse().unwrap(), discount });
        let unix = b"code,discount\nAAAA-1,AMOUNT:5000\nBBBB-2,PERCENT:10\n";
        let windows = b"\xEF\xBB\xBFcode,discount\r\nAAAA-1,AMOUNT:5000\r\nBBBB-2,PERCENT:10\r\n";
        for file in
            [&unix[..], windows, &compressed(unix), &[compressed(&unix[..20]), compressed(&unix[20..])].concat()]
        {
            let counts = [(TEN_PERCENT, 1), (FIVE_THOUSAND, 1)];
            assert_eq!(read_file(file, &counts), (vec![], expected.to_vec()));
            assert_eq!(read_file(Slow(file), &counts), (vec![], expected.to_vec()));
        }
        let (problems, lines) = read_file(&b"code\nAAAA\n"[..], &[(TEN_PERCENT, 1)]);
        assert_eq!((problems, lines[0].discount), (vec![], TEN_PERCENT));
    }

    #[test]
    fn invalid_lines_are_reported_by_their_numbers() {
        let code = "a coupon code is 1 to 64 capital letters, digits and dashes";
        let too_long = "A".repeat(65);
        for (line, problem) in [
            ("a,PERCENT:10", code),
            ("A:B,PERCENT:10", code),
            ("A\u{1}B,PERCENT:10", code),
            (" A,PERCENT:10", code),
            ("\"A\",PERCENT:10", code),
            (",PERCENT:10", code),
            (&format!("{too_long},PERCENT:10"), code),
            ("", "expected two columns"),
            ("A", "expected two columns"),
            ("A,PERCENT:10,", "expected two columns"),
            ("A,PERCENT:11", "the event has no such discount: expected AMOUNT:5000 or PERCENT:10"),
            ("A,percent:10", "the event has no such discount: expected AMOUNT:5000 or PERCENT:10"),
            (&"A".repeat(200), "the line is too long"),
        ] {
            let file = format!("code,discount\nB,AMOUNT:5000\n{line}\n");
            assert_eq!(problems(file.as_bytes()), [format!("line 3: {problem}")], "{line}");
        }
        assert_eq!(problems(b"code,discount\n\xFF,PERCENT:10\n"), ["line 2: the text is not UTF-8"]);
        let many = format!("code,discount\n{}", "a,PERCENT:10\n".repeat(25));
        assert_eq!((problems(many.as_bytes()).len(), &*problems(many.as_bytes())[20]), (21, "and 5 more lines"));
    }

    #[test]
    fn wrong_columns_and_counts_are_reported() {
        let names = "line 1: the first line must be the names of the columns: code,discount, or only code";
        assert_eq!(problems(b"AAAA,PERCENT:10\n"), [names]);
        assert_eq!(problems(b"discount,code\n"), [names]);
        assert_eq!(problems(b"code\nA\n"), ["line 1: the event has 2 discounts: name the columns code,discount"]);
        let counts = |percent, amount| {
            vec![
                format!("the file has {percent} codes of PERCENT:10, but the event needs 1"),
                format!("the file has {amount} codes of AMOUNT:5000, but the event needs 1"),
            ]
        };
        assert_eq!(problems(b""), counts(0, 0));
        assert_eq!(problems(b"code,discount\nA,PERCENT:10\nB,PERCENT:10\n"), counts(2, 0));
    }

    #[test]
    fn truncated_file_is_refused_wherever_it_ends() {
        let file = b"code\nAAAA\nBBBB\n";
        let counts = [(TEN_PERCENT, 2)];
        assert_eq!(read_file(&file[..], &counts).0, Vec::<String>::new());
        for len in 0..file.len() {
            assert_ne!(read_file(&file[..len], &counts).0, Vec::<String>::new(), "{len} bytes");
        }
        let file = compressed(file);
        let batch = CouponBatch { first_ordinal: 0, counts: counts.to_vec() };
        for len in 1..file.len() {
            assert!(read(&file[..len], &batch, |_| true).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn hash_is_that_of_the_file() {
        let batch = CouponBatch { first_ordinal: 0, counts: vec![(TEN_PERCENT, 1)] };
        for file in [&b"code\nAAAA\n"[..], b"wrong\nAAAA\n", &compressed(b"code\nAAAA\n")] {
            let hash = ring::digest::digest(&SHA256, file);
            assert_eq!(&read(file, &batch, |_| true).unwrap().file.sha256[..], hash.as_ref());
        }
    }
}
