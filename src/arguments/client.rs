//! The command line of the subcommands that talk to a running server.
//!
//! As with the server's: what is let through can be tried, and what is refused is refused with one
//! sentence. Whether the server is there, and what it says, is not known here.

use super::suggest::nearest;
use super::{digits, milliseconds};
use crate::limits::{HEARTBEAT_MS, HEARTBEATS_MS};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What `sidestream SUBCOMMAND --help` prints, and the end of `sidestream --help`.
pub const HELP: &str = "\
Talking to a running server
  sidestream sessions                     what there is, the newest activity first
  sidestream new DIRECTORY                a new session; prints its id
      [--agent NAME] [--model MODEL] [--mode MODE] [--name NAME]
  sidestream prompt SESSION [WORDS...]    send a prompt; without words it is read from stdin
      [--wait]                            print the answer as it comes; 1 if the turn failed
      [--interrupt]                       end the running turn first
  sidestream tail [SESSION]               follow one session, or all of them
      [--past none|recent|all] [--after EVENT-ID] [--types a,b or -a]
      [--heartbeat TIME]                  both: a sign of life so often, 5s to 60s [15s]; three
                                          that do not come are a broken connection
  sidestream approve [SESSION]            what waits for an answer
  sidestream approve SESSION APPROVAL allow|deny
      [--hash HASH] [--message WORDS] [--answer WORDS]...
  sidestream interrupt SESSION [--clear-queue]

SESSION is an id, a part of one that only one has, or `last`. Each of them takes:
      --url URL          http://host:port[/base], https://... (by curl), unix:/path
                         [http://127.0.0.1:3010]; or SIDESTREAM_URL
      --token-from FILE  a file that holds the token alone; or SIDESTREAM_TOKEN_FROM, or the
                         token itself in SIDESTREAM_TOKEN
      --json             JSON, a line each, for programs
Text of agents is printed with every control character made visible. NO_COLOR is honoured.
";

/// The words that begin such a command line.
pub(super) const WORDS: [&str; 6] = ["sessions", "new", "prompt", "tail", "approve", "interrupt"];

/// One command for a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where it is.
    pub server: ServerUrl,
    /// The token, if one was given as such.
    pub token: Option<String>,
    /// A file that holds it. Not looked at if `token` is there.
    pub token_from: Option<PathBuf>,
    /// Print JSON lines.
    pub json: bool,
    /// How often a stream is to give a sign of life, in milliseconds.
    pub heartbeat_ms: u64,
    /// What to do.
    pub action: Action,
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// How to connect.
    pub place: Place,
    /// What `Host` says.
    pub authority: String,
    /// What stands before every path: empty, or with a leading slash and without a trailing one.
    pub base: String,
}

/// How to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a host, without brackets, and a port.
    Tcp(String, u16),
    /// To a Unix socket.
    Unix(PathBuf),
    /// With TLS, which curl does for us.
    Tls,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the help says it")]
pub enum Action {
    Sessions,
    New { directory: String, fields: Vec<(&'static str, String)> },
    Prompt { session: String, words: Option<String>, wait: bool, interrupt: bool },
    Tail { session: Option<String>, past: Past, after: Option<String>, types: Option<String> },
    Approvals { session: Option<String> },
    Answer(Box<Answer>),
    Interrupt { session: String, clear_queue: bool },
}

/// The answer to one approval.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the help says it")]
pub struct Answer {
    pub session: String,
    pub approval: String,
    pub allow: bool,
    pub hash: Option<String>,
    pub message: Option<String>,
    pub answers: Vec<String>,
}

/// How much of the past `tail` begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the help says it")]
pub enum Past {
    None,
    Recent,
    All,
}

/// What `doctor` is asked to look at from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Where the server is published.
    pub server: ServerUrl,
    /// A token, as in [`Client`].
    pub token: Option<String>,
    /// A file that holds it.
    pub token_from: Option<PathBuf>,
    /// How long a stream is to live without a byte, in milliseconds; 0: not tried.
    pub idle_ms: u64,
}

/// What a command's words came to.
#[derive(Default)]
struct Given {
    words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Given {
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().position(|(known, _)| *known == name)?;
        Some(self.options.remove(at).1)
    }

    fn switch(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }
}

/// An option and whether it takes a value.
type Option_ = (&'static str, bool);

const COMMON: [Option_; 3] = [("url", true), ("token-from", true), ("json", false)];

/// The options of one subcommand, beside the common ones.
fn options(command: &str) -> &'static [Option_] {
    match command {
        "new" => &[("agent", true), ("model", true), ("mode", true), ("name", true)],
        "prompt" => &[("wait", false), ("interrupt", false), ("heartbeat", true)],
        "tail" => &[("past", true), ("after", true), ("types", true), ("heartbeat", true)],
        "approve" => &[("hash", true), ("message", true), ("answer", true)],
        "interrupt" => &[("clear-queue", false)],
        _ => &[],
    }
}

/// Reads the words behind a subcommand. `None`: its help is asked for.
pub(super) fn parse(
    command: &'static str,
    mut parser: lexopt::Parser,
    variables: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Client>, String> {
    let own = options(command);
    let mut given = Given::default();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        let (name, has_value) = match argument {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(None),
            lexopt::Arg::Value(word) => {
                given.words.push(utf8(word)?);
                continue;
            }
            lexopt::Arg::Short(letter) => {
                return Err(format!("`-{letter}` is not known: `sidestream {command} --help`"));
            }
            lexopt::Arg::Long(name) => {
                let all = || own.iter().chain(&COMMON);
                *all().find(|(known, _)| *known == name).ok_or_else(|| {
                    let meant = nearest(name, all().map(|(known, _)| *known));
                    let meant = meant.map(|it| format!(", did you mean --{it}?"));
                    let help = format!(": `sidestream {command} --help` lists what there is");
                    format!("`--{name}` is not known to {command}{}", meant.unwrap_or(help))
                })?
            }
        };
        let value = match has_value {
            true => utf8(parser.value().map_err(|_| format!("--{name} needs a value"))?)?,
            false => String::new(),
        };
        if name != "answer" && given.options.iter().any(|(known, _)| *known == name) {
            return Err(format!("--{name} was given twice, it may come once"));
        }
        given.options.push((name, value));
    }
    let server = server(given.take("url"), &variables)?;
    let (token, token_from) = token(given.take("token-from"), &variables)?;
    let json = given.switch("json");
    let heartbeat_ms = given.take("heartbeat").map_or(Ok(HEARTBEAT_MS), |text| {
        let asked = milliseconds(&text).filter(|ms| HEARTBEATS_MS.contains(ms) && ms % 1000 == 0);
        asked.ok_or_else(|| format!("--heartbeat: `{text}` is not a time from 5s to 60s"))
    })?;
    let action = action(command, given)?;
    Ok(Some(Client { server, token, token_from, json, heartbeat_ms, action }))
}

fn utf8(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|word| format!("`{}` is not text in UTF-8", word.to_string_lossy()))
}

fn variable(
    name: &str,
    variables: &impl Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, String> {
    variables(name)
        .filter(|value| !value.is_empty())
        .map(|value| value.into_string().map_err(|_| format!("{name} is not text in UTF-8")))
        .transpose()
}

/// Where the server is: as it was said, else by the variable, else the default place.
pub(super) fn server(
    given: Option<String>,
    variables: &impl Fn(&str) -> Option<OsString>,
) -> Result<ServerUrl, String> {
    let (from, text) = match given {
        Some(text) => ("--url", text),
        None => match variable("SIDESTREAM_URL", variables)? {
            Some(text) => ("SIDESTREAM_URL", text),
            None => ("", "http://127.0.0.1:3010".to_owned()),
        },
    };
    ServerUrl::parse(&text).ok_or_else(|| {
        format!(
            "{from}: `{text}` is not a URL such as http://127.0.0.1:3010, \
             https://host/base or unix:/path"
        )
    })
}

/// The token, or where it is.
pub(super) fn token(
    from: Option<String>,
    variables: &impl Fn(&str) -> Option<OsString>,
) -> Result<(Option<String>, Option<PathBuf>), String> {
    if let Some(file) = from {
        return Ok((None, Some(file.into())));
    }
    let token = variable("SIDESTREAM_TOKEN", variables)?;
    let file = variables("SIDESTREAM_TOKEN_FROM").filter(|file| !file.is_empty());
    Ok((token, file.map(PathBuf::from)))
}

impl ServerUrl {
    /// Reads `http[s]://host[:port][/base]` or `unix:/path`.
    pub fn parse(text: &str) -> Option<ServerUrl> {
        if let Some(path) = text.strip_prefix("unix:") {
            let place = Place::Unix(path.into());
            let fits = path.starts_with('/') && path.len() <= 107;
            let (authority, base) = ("localhost".to_owned(), String::new());
            return fits.then_some(ServerUrl { place, authority, base });
        }
        let (scheme, rest) = text.split_once("://")?;
        let (authority, base) = match rest.find('/') {
            Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
            None => (rest, ""),
        };
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"\\@".contains(&byte);
        if authority.is_empty() || !rest.bytes().all(plain) {
            return None;
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, Some(u16::try_from(digits(port)?).ok()?))
            }
            _ => (authority, None),
        };
        let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if host.is_empty() || six.is_none() && host.contains([':', '[', ']']) {
            return None;
        }
        let place = match scheme {
            "http" => Place::Tcp(six.unwrap_or(host).to_owned(), port.unwrap_or(80)),
            "https" => Place::Tls,
            _ => return None,
        };
        Some(ServerUrl { place, authority: authority.to_owned(), base: base.to_owned() })
    }
}

/// Reads what is to be done out of the words and options.
fn action(command: &'static str, mut given: Given) -> Result<Action, String> {
    let needs = |what: &str| format!("write `sidestream {command} {what}`");
    let mut words = std::mem::take(&mut given.words).into_iter();
    let action = match command {
        "sessions" => Action::Sessions,
        "new" => {
            let directory = words.next().ok_or_else(|| needs("DIRECTORY"))?;
            let fields = ["agent", "model", "mode", "name"];
            let fields =
                fields.into_iter().filter_map(|name| given.take(name).map(|value| (name, value)));
            Action::New { directory, fields: fields.collect() }
        }
        "prompt" => {
            let session = words.next().ok_or_else(|| needs("SESSION [WORDS...]"))?;
            let said: Vec<String> = words.by_ref().collect();
            let words = (!said.is_empty() && said != ["-"]).then(|| said.join(" "));
            let (wait, interrupt) = (given.switch("wait"), given.switch("interrupt"));
            Action::Prompt { session, words, wait, interrupt }
        }
        "tail" => {
            let past = match given.take("past").as_deref() {
                None | Some("recent") => Past::Recent,
                Some("none") => Past::None,
                Some("all") => Past::All,
                Some(other) => {
                    return Err(format!("--past: `{other}` is not none, recent or all"));
                }
            };
            let (after, types) = (given.take("after"), given.take("types"));
            let session = words.next();
            if after.is_some() && past != Past::Recent {
                return Err("--after and --past contradict each other: leave one out".into());
            }
            if session.is_none() && past == Past::All {
                return Err("--past all is for one session: name it".into());
            }
            Action::Tail { session, past, after, types }
        }
        "approve" => match (words.next(), words.next()) {
            (session, None) => Action::Approvals { session },
            (session, Some(approval)) => {
                let allow = match words.next().as_deref() {
                    Some("allow") => true,
                    Some("deny") => false,
                    _ => return Err(needs("SESSION APPROVAL allow|deny")),
                };
                let (hash, message) = (given.take("hash"), given.take("message"));
                let answers = std::iter::from_fn(|| given.take("answer")).collect();
                let session = session.unwrap_or_default();
                Action::Answer(Box::new(Answer {
                    session,
                    approval,
                    allow,
                    hash,
                    message,
                    answers,
                }))
            }
        },
        _ => {
            let session = words.next().ok_or_else(|| needs("SESSION"))?;
            Action::Interrupt { session, clear_queue: given.switch("clear-queue") }
        }
    };
    if let Some(stray) = words.next() {
        return Err(format!("`{stray}` is one word too many for {command}"));
    }
    match given.options.first() {
        Some((name, _)) => Err(format!("--{name} says nothing here: an answer needs APPROVAL too")),
        None => Ok(action),
    }
}

/// Reads the options of `doctor` that are not the server's: `url`, `token-from` and `idle`.
pub(super) fn outside(
    given: &[(&'static str, OsString)],
    variables: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Outside>, String> {
    let find = |name: &str| -> Result<Option<String>, String> {
        let found = given.iter().find(|(known, _)| *known == name);
        found.map(|(_, value): &(_, OsString)| utf8(OsStr::to_owned(value))).transpose()
    };
    let idle = find("idle")?;
    let Some(url) = find("url")? else {
        return match idle {
            Some(_) => Err("--idle is about a way from outside: name it with --url".into()),
            None => Ok(None),
        };
    };
    let idle_ms = match &idle {
        None => 0,
        Some(text) => {
            milliseconds(text).filter(|ms| (1..=3_600_000).contains(ms)).ok_or_else(|| {
                format!("--idle: `{text}` is not a time such as 90s or 10m, at most 1h")
            })?
        }
    };
    let server = server(Some(url), &variables)?;
    let (token, token_from) = token(find("token-from")?, &variables)?;
    Ok(Some(Outside { server, token, token_from, idle_ms }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Option<Client>, String> {
        let command = WORDS.into_iter().find(|word| word == &words[0]).unwrap();
        let rest = words[1..].iter().map(OsString::from);
        parse(command, lexopt::Parser::from_args(rest), |_| None)
    }

    fn action(words: &[&str]) -> Action {
        run(words).unwrap().unwrap().action
    }

    #[test]
    fn a_url_is_a_place_a_host_and_a_base() {
        let url = |text: &str| ServerUrl::parse(text).map(|it| (it.place, it.authority, it.base));
        let tcp = |host: &str, port| Place::Tcp(host.into(), port);
        let told =
            |place, authority: &str, base: &str| Some((place, authority.into(), base.into()));
        assert_eq!(url("http://a"), told(tcp("a", 80), "a", ""));
        assert_eq!(url("http://[::1]:3010/"), told(tcp("::1", 3010), "[::1]:3010", ""));
        assert_eq!(url("https://a:1/b/c/"), told(Place::Tls, "a:1", "/b/c"));
        assert_eq!(url("unix:/run/s"), told(Place::Unix("/run/s".into()), "localhost", ""));
        for text in [
            "",
            "a",
            "ftp://a",
            "http://",
            "http://a:x",
            "http://a:70000",
            "http://a?b",
            "http://u@a",
            "http://::1",
            "http://a\"b",
            "unix:run",
            "http://a b",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }

    #[test]
    fn each_command_takes_its_own_words_and_no_others() {
        let session = || "s".to_owned();
        assert_eq!(action(&["sessions"]), Action::Sessions);
        let fields = vec![("agent", "x".to_owned()), ("name", "n".to_owned())];
        let new = action(&["new", "--name", "n", "/d", "--agent=x"]);
        assert_eq!(new, Action::New { directory: "/d".into(), fields });
        let prompt = |words: Option<&str>, wait, interrupt| {
            let words = words.map(str::to_owned);
            Action::Prompt { session: session(), words, wait, interrupt }
        };
        let words = ["prompt", "s", "--wait", "fix", "it"];
        assert_eq!(action(&words), prompt(Some("fix it"), true, false));
        assert_eq!(action(&["prompt", "s", "--", "--wait"]), prompt(Some("--wait"), false, false));
        assert_eq!(action(&["prompt", "s", "-", "--interrupt"]), prompt(None, false, true));
        let answer = Answer {
            session: session(),
            approval: "a".into(),
            allow: false,
            hash: None,
            message: Some("no".into()),
            answers: vec!["1".into(), "2".into()],
        };
        let words = ["approve", "s", "a", "deny", "--message=no", "--answer=1", "--answer=2"];
        assert_eq!(action(&words), Action::Answer(Box::new(answer)));
        assert_eq!(action(&["approve"]), Action::Approvals { session: None });
        let interrupt = Action::Interrupt { session: session(), clear_queue: true };
        assert_eq!(action(&["interrupt", "s", "--clear-queue"]), interrupt);
        assert_eq!(run(&["tail", "--help"]), Ok(None));
        for (words, part) in [
            (&["new"][..], "new DIRECTORY"),
            (&["prompt"], "SESSION [WORDS...]"),
            (&["interrupt"], "SESSION"),
            (&["interrupt", "a", "b"], "`b` is one word too many"),
            (&["sessions", "a"], "one word too many"),
            (&["approve", "s", "a"], "allow|deny"),
            (&["approve", "s", "a", "yes"], "allow|deny"),
            (&["approve", "s", "--hash", "h"], "--hash says nothing here"),
            (&["tail", "--past", "some"], "none, recent or all"),
            (&["tail", "--past=all"], "for one session"),
            (&["tail", "s", "--past=all", "--after=x"], "contradict"),
            (&["tail", "--jsn"], "did you mean --json?"),
            (&["tail", "--wait"], "`--wait` is not known to tail"),
            (&["tail", "-f"], "`-f` is not known"),
            (&["tail", "--url"], "--url needs a value"),
            (&["tail", "--url=x"], "--url: `x` is not a URL"),
            (&["tail", "--json", "--json"], "twice"),
            (&["tail", "--json=1"], "json"),
        ] {
            let sentence = run(words).unwrap_err();
            assert!(sentence.contains(part), "{words:?}: {sentence}");
        }
    }

    #[test]
    fn variables_stand_in_for_the_place_and_the_token() {
        let variables = |name: &str| match name {
            "SIDESTREAM_URL" => Some("unix:/v".into()),
            "SIDESTREAM_TOKEN" => Some("t".into()),
            "SIDESTREAM_TOKEN_FROM" => Some("/f".into()),
            _ => None,
        };
        let parsed = |words: &[&str]| {
            let parser = lexopt::Parser::from_args(words.iter().map(OsString::from));
            parse("sessions", parser, variables).unwrap().unwrap()
        };
        let client = parsed(&[]);
        assert_eq!(client.server.place, Place::Unix("/v".into()));
        assert_eq!((client.token, client.token_from), (Some("t".into()), Some("/f".into())));
        let client = parsed(&["--url=http://a", "--token-from", "/g"]);
        assert_eq!(client.server.place, Place::Tcp("a".into(), 80));
        assert_eq!((client.token, client.token_from), (None, Some("/g".into())));
    }
}
