//! `jwtunnel keys import`: reads and checks a CSV file, then sends it in batches, each of which is one transaction.

mod generated;
mod progress;
mod table;

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Connection;
use super::server::{Answer, Server};
use crate::cli::{LEFT_TO_DO, UsageError};
use crate::shutdown;
use generated::Generated;
use progress::Progress;
use table::{Mistake, Row, Table};

pub(super) const EXAMPLES: &str = "\
Examples:
  jwtunnel keys import fleet.csv --dry-run
      read and check the file; nothing is sent
  jwtunnel keys import fleet.csv --out fleet-keys.csv
      generate keys for the lines without one, write them to fleet-keys.csv (mode 0600), register all
  zcat fleet.csv.gz | jwtunnel keys import - --json

A file:
  key,identifier,rotate
  ,7d2b0d0c-8d7e-4a51-9f0c-3f1f8f3f4f11,true
  Q3Jvd2RlZCBob3VzZXMsIGxvdWQgcm9vbXM,0b9f3a52-5a55-4c8e-8a6b-6f3f6f1f2a77,false

Keys in a file are as good as passwords: mode 0600, and remove it when the clients have theirs.

After an interruption each line is registered or not, never half, and the same command goes on: with the same
file, and the same --out, whose keys are used again.

Exit codes: 0 all lines are registered; 1 a fault, and the same command goes on; 2 a mistake in the arguments or in
the file, nothing was sent; 3 some lines were refused, which are named, and all others are registered; 130
interrupted, and the same command goes on.";

/// Lines in a request: as many as one fsync of the database carries without keeping others waiting.
const BATCH: usize = 500;

/// Bytes in a request, before the last line.
const BATCH_BYTES: usize = 256 << 10;

/// So often a batch is tried again while the daemon is busy or its database away, with longer and longer pauses: 31
/// seconds in all.
const RETRIES: u32 = 5;

/// As shells tell an end by SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    #[command(flatten)]
    connection: Connection,

    /// Where generated keys go, as CSV, for its owner alone: for lines whose field key is empty.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Read and check the file only.
    #[arg(long)]
    dry_run: bool,

    /// The CSV file; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(args: Import) -> anyhow::Result<ExitCode> {
    let server = args.connection.server()?;
    let source = Source::open(&args.file)?;
    let Some(counts) = check(&source, args.out.as_deref())? else {
        return Ok(ExitCode::from(2));
    };
    if args.dry_run {
        let mut out = io::stdout();
        let Counts { lines, to_generate } = counts;
        if args.connection.json() {
            writeln!(
                out,
                "{}",
                json!({"lines": lines, "to_generate": to_generate, "dry_run": true})
            )?;
        } else {
            writeln!(
                out,
                "{lines} lines are right, {to_generate} of them without a key; nothing was sent"
            )?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let generated = match &args.out {
        Some(path) if counts.to_generate > 0 => {
            if !exists(path)? {
                let mut table = source.table()?;
                generated::write(path, || table.row())?;
            }
            Some(path.as_path())
        }
        _ => None,
    };
    let mut sending = Sending::new(server, source.name.clone(), counts.lines);
    let stopped = shutdown::requested()?;
    let result = tokio::select! {
        result = sending.send(&source, generated) => Some(result),
        _ = stopped => None,
    };
    sending.progress.clear();
    sending.tell(result, generated, args.connection.json())
}

/// The file, which is read more than once.
struct Source {
    name: String,
    file: File,
}

/// The lines of a [`Source`] that was checked.
struct Checked<'s> {
    name: &'s str,
    table: Table<BufReader<&'s File>>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    lines: u64,
    to_generate: u64,
}

impl Source {
    /// # Errors
    /// When it cannot be read.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let is_stdin = path.as_os_str() == "-";
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let mistake = |error: io::Error| UsageError(format!("{name}: cannot be read: {error}"));
        let file = if is_stdin {
            spool(&mut io::stdin().lock())?
        } else {
            let mut file = File::open(path).map_err(mistake)?;
            let metadata = file.metadata().map_err(mistake)?;
            if metadata.is_dir() {
                return Err(mistake(io::ErrorKind::IsADirectory.into()).into());
            }
            // A pipe, such as a shell's <(…), is read only once.
            if metadata.is_file() { file } else { spool(&mut file)? }
        };
        Ok(Self { name, file })
    }

    fn rewind(&self) -> anyhow::Result<BufReader<&File>> {
        (&self.file).rewind().with_context(|| self.name.clone())?;
        Ok(BufReader::with_capacity(64 << 10, &self.file))
    }

    fn table(&self) -> anyhow::Result<Checked<'_>> {
        let name = self.name.as_str();
        match Table::open(self.rewind()?).with_context(|| name.to_owned())? {
            Ok(table) => Ok(Checked { name, table }),
            Err(mistakes) => Err(changed(name, &mistakes[0])),
        }
    }
}

/// # Errors
/// When it cannot be told.
fn exists(out: &Path) -> anyhow::Result<bool> {
    out.try_exists().with_context(|| format!("--out {}", out.display()))
}

/// A file without a name, which goes with the program.
fn spool(input: &mut dyn io::Read) -> anyhow::Result<File> {
    let mut file = tempfile::tempfile().context("a temporary file; TMPDIR names another folder")?;
    io::copy(input, &mut file)
        .context("copying the input to a temporary file, to read it twice")?;
    Ok(file)
}

impl Checked<'_> {
    fn row(&mut self) -> anyhow::Result<Option<Row>> {
        match self.table.next().with_context(|| self.name.to_owned())? {
            None => Ok(None),
            Some(Ok(row)) => Ok(Some(row)),
            Some(Err(mistakes)) => Err(changed(self.name, &mistakes[0])),
        }
    }
}

fn changed(name: &str, mistake: &Mistake) -> anyhow::Error {
    anyhow::anyhow!("{name} has changed since it was checked: {mistake}; the same command goes on")
}

/// Reads all of the file, and says what is wrong with it. None: something is.
fn check(source: &Source, out: Option<&Path>) -> anyhow::Result<Option<Counts>> {
    let mut generated = match out {
        Some(path) if exists(path)? => Some(Generated::open(path)?),
        _ => None,
    };
    let name = source.name.clone();
    let mut wrong = 0_u64;
    let mut complain = |mistakes: &[Mistake]| {
        wrong += 1;
        for mistake in mistakes {
            let _ = writeln!(io::stderr(), "jwtunnel: {name}: {mistake}");
        }
    };
    let mut counts = Counts::default();
    match Table::open(source.rewind()?).with_context(|| name.clone())? {
        Err(mistakes) => complain(&mistakes),
        Ok(mut table) => {
            while let Some(row) = table.next().with_context(|| name.clone())? {
                counts.lines += 1;
                match row {
                    Err(mistakes) => complain(&mistakes),
                    Ok(row) if row.key.is_none() => {
                        counts.to_generate += 1;
                        if out.is_none() && counts.to_generate == 1 {
                            let text = "empty, and there is no --out FILE for generated keys; so in every \
                                        further line without a key";
                            let (line, column) = (row.line, Some("key"));
                            complain(&[Mistake { line, column, text: text.into() }]);
                        }
                        if let Some(generated) = &mut generated {
                            generated.key_for(&row)?;
                        }
                    }
                    Ok(_) => {}
                }
            }
        }
    }
    if wrong > 0 {
        let lines = if wrong == 1 { "1 line is" } else { &format!("{wrong} lines are") };
        let _ = writeln!(io::stderr(), "jwtunnel: {name}: {lines} wrong; nothing was sent");
        return Ok(None);
    }
    if let Some(generated) = generated {
        generated.finish()?;
    }
    Ok(Some(counts))
}

/// Lines that go together.
#[derive(Default)]
struct Batch {
    lines: Vec<u64>,
    keys: Vec<Value>,
    bytes: usize,
}

struct Sending {
    server: Server,
    name: String,
    total: u64,
    registered: u64,
    known: u64,
    refused: u64,
    progress: Progress,
}

impl Sending {
    fn new(server: Server, name: String, total: u64) -> Self {
        let progress = Progress::new(total);
        Self { server, name, total, registered: 0, known: 0, refused: 0, progress }
    }

    fn done(&self) -> u64 {
        self.registered + self.known + self.refused
    }

    async fn send(&mut self, source: &Source, out: Option<&Path>) -> anyhow::Result<()> {
        let mut generated = out.map(Generated::open).transpose()?;
        let mut table = source.table()?;
        let mut batch = Batch::default();
        while let Some(mut row) = table.row()? {
            let key = match (row.key.take(), &mut generated) {
                (Some(key), _) => key,
                (None, Some(generated)) => generated.key_for(&row)?,
                (None, None) => bail!("{} has changed since it was checked", self.name),
            };
            batch.bytes += key.expose().len();
            batch.lines.push(row.line);
            let Row { identifier, rotate, .. } = row;
            batch
                .keys
                .push(json!({"key": key.expose(), "identifier": identifier, "rotate": rotate}));
            if batch.lines.len() >= BATCH || batch.bytes >= BATCH_BYTES {
                self.send_batch(std::mem::take(&mut batch)).await?;
            }
        }
        if !batch.lines.is_empty() {
            self.send_batch(batch).await?;
        }
        Ok(())
    }

    async fn send_batch(&mut self, batch: Batch) -> anyhow::Result<()> {
        self.progress.show(self.done());
        let body = json!({"keys": batch.keys});
        let answer = self.ask(&body).await?;
        answer.expect(StatusCode::OK)?;
        let outcomes = answer.body()["outcomes"].as_array().map(Vec::as_slice).unwrap_or_default();
        if outcomes.len() != batch.lines.len() {
            bail!(
                "jwtunneld's answer is not about the keys that were sent; is it of the same version?"
            );
        }
        for (line, outcome) in batch.lines.iter().zip(outcomes) {
            let why = match outcome.as_str() {
                Some("registered") => {
                    self.registered += 1;
                    continue;
                }
                Some("known") => {
                    self.known += 1;
                    continue;
                }
                Some("other_identifier") => {
                    "it is registered for another identifier, which stays so (jwtunnel keys show --key-file \
                     tells which); give this client another key"
                }
                _ => "it has been revoked, which is for good; give this client another key",
            };
            self.refused += 1;
            self.progress.clear();
            let _ =
                writeln!(io::stderr(), "jwtunnel: {}: line {line}, column key: {why}", self.name);
        }
        self.progress.show(self.done());
        Ok(())
    }

    /// A batch may be sent again: what is registered then counts as known.
    async fn ask(&self, body: &Value) -> anyhow::Result<Answer> {
        let mut retries = 0..RETRIES;
        loop {
            let answer = self.server.post("/register_keys", body).await;
            // A daemon that has never answered is more likely another address than away.
            let may_pass = match &answer {
                Ok(answer) => answer.is_passing(),
                Err(_) => self.done() > 0,
            };
            match retries.next().filter(|_| may_pass) {
                Some(retry) => tokio::time::sleep(Duration::from_secs(1 << retry)).await,
                None => return answer,
            }
        }
    }

    /// Tells what has been done. `result` is none after an interruption.
    fn tell(
        &self,
        result: Option<anyhow::Result<()>>,
        out: Option<&Path>,
        as_json: bool,
    ) -> anyhow::Result<ExitCode> {
        let Self { registered, known, refused, total, .. } = self;
        let done = self.done();
        let is_whole = matches!(result, Some(Ok(())));
        let mut stdout = io::stdout();
        if as_json {
            let object = json!({
                "lines": total, "registered": registered, "known": known, "refused": refused,
                "complete": is_whole, "out": out,
            });
            writeln!(stdout, "{object}")?;
        } else {
            writeln!(
                stdout,
                "registered: {registered}\nregistered before: {known}\nrefused: {refused}"
            )?;
            if let Some(out) = out {
                writeln!(stdout, "generated keys: {}, for its owner alone", out.display())?;
            }
        }
        let rest = format!(
            "{done} of {total} lines are done, and no line is half done; the same command goes on{}",
            if out.is_some() { ", with the keys that are in the file of --out" } else { "" }
        );
        match result {
            Some(Ok(())) if *refused > 0 => Ok(ExitCode::from(LEFT_TO_DO)),
            Some(Ok(())) => Ok(ExitCode::SUCCESS),
            Some(Err(error)) => Err(error.context(rest)),
            None => {
                let _ = writeln!(io::stderr(), "jwtunnel: interrupted: {rest}");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    }
}
