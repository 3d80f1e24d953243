//! `generate`, hidden: the man pages and completions that packages carry.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use time::OffsetDateTime;

use super::{Arguments, EXIT_INTERNAL};

/// What is written, and where.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    #[arg(value_name = "WHAT")]
    what: What,

    /// A directory, made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// A page for the program and one for each command
    Man,
    /// For bash, fish and zsh
    Completions,
}

/// Writes the files.
pub(crate) fn run(arguments: &GenerateArgs) -> ExitCode {
    let directory = &arguments.directory;
    let written = fs::create_dir_all(directory).and_then(|()| match arguments.what {
        What::Man => man(directory),
        What::Completions => completions(directory),
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: nothing can be written in {}: {error}", directory.display());
            ExitCode::from(EXIT_INTERNAL)
        }
    }
}

fn man(directory: &Path) -> io::Result<()> {
    // `help` repeats what the pages are.
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    page(directory, &command, &date())
}

/// The page of one command, and those of what is below it.
fn page(directory: &Path, command: &clap::Command, date: &str) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        page(directory, below, date)?;
    }
    let title = command.get_display_name().unwrap_or(command.get_name()).to_uppercase();
    let page = clap_mangen::Man::new(command.clone())
        .title(title)
        .date(date)
        .source(concat!("parley-relay ", env!("CARGO_PKG_VERSION")))
        .manual("Parley Chat");
    let mut text = Vec::new();
    page.render(&mut text)?;
    // An empty line between two breaks, as clap_mangen writes it, is a paragraph in a place where none may be.
    let mut text = String::from_utf8_lossy(&text).replace(".br\n\n.br\n", ".sp\n");
    if command.get_name() == Arguments::command().get_name() {
        text += MORE;
    }
    fs::write(directory.join(page.get_filename()), text)
}

/// What no command line tells, in roff.
const MORE: &str = r"
.SH SIGNALS
.TP
.B SIGTERM, SIGINT
End event streams, let other requests finish, and exit; a second one exits at once.
.TP
.B SIGHUP
Read the configuration anew, and put it in force as a whole; a broken one is refused, and the log says why.
.TP
.B SIGUSR2
Let the binary that is on disk now take over, as
.B parley\-relay upgrade
does.
.TP
.B SIGUSR1
Write a status into the log.
.SH EXIT STATUS
.TP
.B 0
Success.
.TP
.B 1
health: the relay does not answer; update \-\-check: there is a newer release.
.TP
.B 64
The command line is wrong.
.TP
.B 69
No relay runs here that could be asked; update: the mirror cannot be reached.
.TP
.B 65, 73
update: what came is no release, a file cannot be written.
.TP
.B 70
Something inside went wrong; upgrade: the process that was asked has ended, or does not answer;
update: the previous program is back.
.TP
.B 75
upgrade: it is refused, and the process that runs goes on as before; update: another update is at work.
.TP
.B 78
The configuration is wrong, or a port cannot be had.
.SH FILES
.TP
.I /etc/parley-relay/config.toml
The configuration that the systemd unit starts with.
.TP
.I /etc/parley-relay/update.pub
The minisign key that updates have to be signed with, if it is there.
.TP
.I /etc/parley-relay/update.env
The mirror of updates, as MIRROR_BASE_URL, and their flags, as UPDATE_FLAGS; update goes by it where no mirror is given.
.TP
.I /var/lib/parley-relay
Keys, certificates and the ACME account.
.TP
.I /opt/parley-chat/config.toml
The backend's own configuration, read where nothing else says what to serve.
";

/// Today, or the day of SOURCE_DATE_EPOCH, so that a release's pages are the same whenever they are made.
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let given = given.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok());
    let day = given.unwrap_or_else(OffsetDateTime::now_utc).date();
    // Year, month and day, as a date is displayed.
    day.to_string()
}

fn completions(directory: &Path) -> io::Result<()> {
    let mut command = Arguments::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "parley-relay", directory)?;
    }
    Ok(())
}
