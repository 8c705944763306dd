//! tantivy for the comparison. Requests come as lines of words between tabs, replies are one line each; the Python
//! side, `benchmarks/compare/outside.py`, says what they mean. Times are taken here, around making a query of its
//! words and running it.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufWriter, StdinLock, StdoutLock, Write};
use std::path::PathBuf;
use std::time::Instant;

use tantivy::collector::{Count, TopDocs};
use tantivy::indexer::NoMergePolicy;
use tantivy::query::{BooleanQuery, Occur, PhraseQuery, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, STORED, STRING, Schema, TEXT, Value};
use tantivy::{DocAddress, Index, IndexWriter, Score, Searcher, TantivyDocument, Term};

const HEAP: usize = 3_000_000_000;

type Fallible<T> = Result<T, Box<dyn Error>>;

struct Question {
    kind: String,
    terms: Vec<String>,
}

#[derive(Clone, Copy)]
enum Command {
    Top(usize),
    Count,
    TopCount(usize),
    Fetch(usize),
}

/// What a command found; `None` where it was not asked to count.
struct Found {
    count: Option<usize>,
    top: Vec<(Score, DocAddress)>,
}

struct Engine {
    directory: PathBuf,
    id: Field,
    text: Field,
    schema: Schema,
    pending: Vec<(String, String)>,
    index: Option<Index>,
    writer: Option<IndexWriter>,
    searcher: Option<Searcher>,
    questions: Vec<Question>,
}

impl Engine {
    fn new(directory: PathBuf) -> Engine {
        let mut builder = Schema::builder();
        let id = builder.add_text_field("id", STRING | STORED);
        let text = builder.add_text_field("text", TEXT | STORED);
        Engine {
            directory,
            id,
            text,
            schema: builder.build(),
            pending: Vec::new(),
            index: None,
            writer: None,
            searcher: None,
            questions: Vec::new(),
        }
    }

    fn obey(&mut self, words: &[&str]) -> Fallible<Option<String>> {
        match words {
            ["version"] => return Ok(Some(tantivy::version_string().to_owned())),
            ["document", id, text] => {
                self.pending.push(((*id).to_owned(), unescape(text)));
                return Ok(None);
            }
            ["question", kind, terms @ ..] => {
                let terms = terms.iter().map(|&term| term.to_owned()).collect();
                self.questions.push(Question { kind: (*kind).to_owned(), terms });
                return Ok(None);
            }
            ["create"] => self.create()?,
            ["add"] => self.add()?,
            ["delete", ids @ ..] => self.delete(ids)?,
            ["merge"] => self.merge()?,
            ["close"] => {
                if let Some(writer) = self.writer.take() {
                    writer.wait_merging_threads()?;
                }
                self.index = None;
            }
            ["open"] => {
                let index = Index::open_in_dir(&self.directory)?;
                self.searcher = Some(index.reader()?.searcher());
            }
            ["segments"] => return Ok(Some(self.searcher()?.segment_readers().len().to_string())),
            ["answer", command, number] => {
                let found = self.run(&self.questions[number.parse::<usize>()?], parse_command(command)?)?;
                let count = found.count.map_or("-".to_owned(), |count| count.to_string());
                let scores: Vec<String> = found.top.iter().map(|(score, _)| score.to_string()).collect();
                return Ok(Some(format!("{count}\t{}", scores.join(" "))));
            }
            ["measure", command, numbers] => return Ok(Some(self.measure(parse_command(command)?, numbers)?)),
            _ => return Err(format!("no such request: {words:?}").into()),
        }
        Ok(Some("done".to_owned()))
    }

    fn create(&mut self) -> Fallible<()> {
        std::fs::create_dir_all(&self.directory)?;
        let index = Index::create_in_dir(&self.directory, self.schema.clone())?;
        let writer: IndexWriter = index.writer_with_num_threads(1, HEAP)?;
        writer.set_merge_policy(Box::new(NoMergePolicy));
        (self.index, self.writer) = (Some(index), Some(writer));
        Ok(())
    }

    /// Index what is pending; on return it is durable.
    fn add(&mut self) -> Fallible<()> {
        let (id_field, text_field) = (self.id, self.text);
        let pending = std::mem::take(&mut self.pending);
        let writer = self.writer()?;
        for (id, text) in pending {
            let mut document = TantivyDocument::default();
            document.add_text(id_field, id);
            document.add_text(text_field, text);
            writer.add_document(document)?;
        }
        writer.commit()?;
        Ok(())
    }

    fn delete(&mut self, ids: &[&str]) -> Fallible<()> {
        let field = self.id;
        let writer = self.writer()?;
        for id in ids {
            writer.delete_term(Term::from_field_text(field, id));
        }
        writer.commit()?;
        Ok(())
    }

    fn merge(&mut self) -> Fallible<()> {
        let segments = self.index.as_ref().ok_or("create first")?.searchable_segment_ids()?;
        if segments.len() > 1 {
            self.writer()?.merge(&segments).wait()?;
        }
        Ok(())
    }

    fn measure(&self, command: Command, numbers: &str) -> Fallible<String> {
        let mut times = Vec::new();
        for number in numbers.split(' ') {
            let question = &self.questions[number.parse::<usize>()?];
            let started = Instant::now();
            black_box(self.run(question, command)?);
            times.push(started.elapsed().as_nanos().to_string());
        }
        Ok(times.join(" "))
    }

    fn run(&self, question: &Question, command: Command) -> Fallible<Found> {
        let searcher = self.searcher()?;
        let query = self.query(question);
        Ok(match command {
            Command::Top(k) => {
                Found { count: None, top: searcher.search(&query, &TopDocs::with_limit(k).order_by_score())? }
            }
            Command::Count => Found { count: Some(searcher.search(&query, &Count)?), top: Vec::new() },
            Command::TopCount(k) => {
                let (top, count) = searcher.search(&query, &(TopDocs::with_limit(k).order_by_score(), Count))?;
                Found { count: Some(count), top }
            }
            Command::Fetch(k) => {
                let top = searcher.search(&query, &TopDocs::with_limit(k).order_by_score())?;
                for &(_, address) in &top {
                    let document: TantivyDocument = searcher.doc(address)?;
                    black_box(document.get_first(self.id).and_then(|value| value.as_str()));
                    black_box(document.get_first(self.text).and_then(|value| value.as_str()));
                }
                Found { count: None, top }
            }
        })
    }

    fn query(&self, question: &Question) -> Box<dyn Query> {
        let term = |text: &String| Term::from_field_text(self.text, text);
        let scored = |text: &String| -> Box<dyn Query> {
            Box::new(TermQuery::new(term(text), IndexRecordOption::WithFreqs))
        };
        let all = |occur: Occur| -> Box<dyn Query> {
            Box::new(BooleanQuery::new(question.terms.iter().map(|text| (occur, scored(text))).collect()))
        };
        match question.kind.as_str() {
            "term" => scored(&question.terms[0]),
            "phrase" => Box::new(PhraseQuery::new(question.terms.iter().map(term).collect())),
            "intersection" => all(Occur::Must),
            _ => all(Occur::Should),
        }
    }

    fn writer(&mut self) -> Fallible<&mut IndexWriter> {
        Ok(self.writer.as_mut().ok_or("create first")?)
    }

    fn searcher(&self) -> Fallible<&Searcher> {
        Ok(self.searcher.as_ref().ok_or("open first")?)
    }
}

/// `TOP_10`, `COUNT`, `TOP_10_COUNT` or `FETCH_10`.
fn parse_command(name: &str) -> Fallible<Command> {
    Ok(match name.split('_').collect::<Vec<_>>()[..] {
        ["COUNT"] => Command::Count,
        ["TOP", k] => Command::Top(k.parse()?),
        ["TOP", k, "COUNT"] => Command::TopCount(k.parse()?),
        ["FETCH", k] => Command::Fetch(k.parse()?),
        _ => return Err(format!("no such command: {name}").into()),
    })
}

/// `\t`, `\n` and `\\` stand for a tab, a line feed and a backslash.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    plain
}

fn serve(input: StdinLock, mut output: BufWriter<StdoutLock>, engine: &mut Engine) -> Fallible<()> {
    for line in input.lines() {
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        match engine.obey(&words) {
            Ok(None) => continue,
            Ok(Some(reply)) => writeln!(output, "{reply}")?,
            Err(error) => writeln!(output, "error\t{}", error.to_string().replace('\n', " "))?,
        }
        output.flush()?;
    }
    Ok(())
}

fn main() -> Fallible<()> {
    let directory = std::env::args().nth(1).ok_or("usage: compare-native-tantivy DIRECTORY")?;
    serve(std::io::stdin().lock(), BufWriter::new(std::io::stdout().lock()), &mut Engine::new(directory.into()))
}
