//! Each behaviour as an attack: how the culprit is set up, and how it is met.
//!
//! An attack that a limit contains has an end beyond that limit. With the limit raised it succeeds,
//! which shows that nothing else was in its way: [`Attack::raised`] says how.

use std::time::Duration;

use anyhow::Result;
use pintle_fixture_hostile::{Behaviour, VERSION_TEXT};

use super::{
    Options, Server,
    bytes::{
        COMPONENT, function, hostile, marked, memory, module, nested, replaced, table, with_module,
    },
    impatient,
};

/// How long a call of [`impatient`] may go on.
pub const CALL: Duration = Duration::from_millis(600);

/// What becomes of an attack.
#[derive(Debug, Clone, Copy)]
pub enum Met {
    /// Its incarnation is ended with a reason that names this, and the next one serves.
    Ended(&'static str),
    /// It is ended for this at each start, until its backend is quarantined.
    Quarantined(&'static str),
    /// Its backend is refused for this, at once or when it was provoked.
    Refused(&'static str),
    /// It is told no, and reports so with a text that begins like this. It goes on.
    Reports(&'static str),
    /// The same, and the host has counted what was denied.
    Denied,
    /// Who provokes it gets an error with this code. It goes on.
    Fails(&'static str),
    /// It serves as if nothing had happened.
    GoesOn,
    /// It has come where it should not come: the trap is sprung.
    Reaches,
}

/// One behaviour at work.
pub struct Attack {
    /// What is done.
    pub behaviour: Behaviour,
    /// The culprit's file, where it is not the fixture as it was built.
    pub file: Option<Vec<u8>>,
    /// How the culprit is set up.
    pub options: Options,
    /// How it is met.
    pub met: Met,
    /// How long it may go on, where its limit is a time.
    pub limit: Option<Duration>,
    /// How it is set up with its limit raised, and what it comes to then.
    pub raised: Option<(Options, Met)>,
}

impl Attack {
    /// The attack of a behaviour that is provoked or that sets in by itself. Others take more than
    /// that, and have a test of their own alone.
    ///
    /// # Errors
    ///
    /// Fails when the fixture is not built.
    pub fn of(behaviour: Behaviour) -> Result<Option<Self>> {
        Ok(match by_file(behaviour)? {
            Some(attack) => Some(attack),
            None => by_settings(behaviour),
        })
    }

    fn new(behaviour: Behaviour, options: Options, met: Met) -> Self {
        Self { behaviour, file: None, options, met, limit: None, raised: None }
    }

    fn raised(self, options: Options, met: Met) -> Self {
        Self { raised: Some((options, met)), ..self }
    }
}

/// With these limits.
fn limits(text: &str) -> Options {
    Options { backend: format!("limits = {{ {text} }}"), ..Options::default() }
}

/// As [`impatient`], for what need not yield where its other side keeps up: the call's time ends it, and
/// nothing before that.
fn untiring() -> Options {
    limits("call = \"500ms\", more = { call_grace = \"100ms\", unyielded_max = \"1min\" }")
}

/// With these lines for the backend.
fn backend(text: &str) -> Options {
    Options { backend: text.to_owned(), ..Options::default() }
}

/// With these limits for files.
fn of_files(text: &str) -> Options {
    Options { host: format!("[plugins.limits]\n{text}"), ..Options::default() }
}

fn by_settings(behaviour: Behaviour) -> Option<Attack> {
    let plain = |met| Attack::new(behaviour, Options::default(), met);
    let timed = |options| Attack {
        limit: Some(CALL),
        ..Attack::new(behaviour, options, Met::Ended("did not return within"))
    };
    let fills = |report| {
        let with = |data_bytes| {
            limits(&format!(
                "call = \"1min\", more = {{ data_bytes = \"{data_bytes}\", unyielded_max = \"1min\" }}"
            ))
        };
        Attack::new(behaviour, with("4MiB"), Met::Refused("make room"))
            .raised(with("1GiB"), Met::Reports(report))
    };
    let opened = || backend("allow = [\"127.0.0.1:*\"]\nlimits = { call = \"500ms\" }");
    Some(match behaviour {
        Behaviour::MemoryBomb => plain(Met::Ended("limits.memory = \"64MiB\""))
            .raised(limits("memory = \"256MiB\""), Met::Reports("96 MiB")),
        Behaviour::StackBomb => plain(Met::Ended("call stack exhausted")),
        Behaviour::HandleFlood => plain(Met::Ended("handles_max = 10000"))
            .raised(limits("more = { handles_max = 100000 }"), Met::Reports("20000 sockets")),
        Behaviour::StreamFlood => plain(Met::Ended("handles_max = 10000"))
            .raised(limits("more = { handles_max = 100000 }"), Met::Reports("20000 streams")),
        Behaviour::TaskFlood => plain(Met::Ended("handles_max = 10000"))
            .raised(limits("more = { handles_max = 100000 }"), Met::Reports("20000 tasks")),
        Behaviour::RandomFlood => plain(Met::Reports("at most 65536 bytes")).raised(
            limits("more = { random_bytes = \"16MiB\", unyielded_max = \"1min\" }"),
            Met::Reports("at most 16777216 bytes"),
        ),
        Behaviour::LongRun => {
            let short = limits("call = \"1min\", more = { unyielded_max = \"100ms\" }");
            let long = limits("call = \"1min\", more = { unyielded_max = \"1min\" }");
            Attack::new(behaviour, short, Met::Ended("computed for 100 ms without yielding"))
                .raised(long, Met::Reports("computed"))
        }
        Behaviour::DataFlood | Behaviour::DataStream => fills("64 MiB"),
        Behaviour::FolderFlood => fills("4000 folders"),
        Behaviour::FileFlood | Behaviour::NewFileFlood => plain(Met::Ended("open_files = 64"))
            .raised(limits("more = { open_files = 1000 }"), Met::Reports("100 files")),
        Behaviour::LogFlood | Behaviour::EmptyLogFlood => plain(Met::Reports("50000 lines")),
        Behaviour::LongLine => plain(Met::Reports("1048576 bytes")),
        Behaviour::LogForgery | Behaviour::SecretInLog => plain(Met::Reports("said")),
        Behaviour::OutputFlood => plain(Met::Reports("16 MiB")),
        Behaviour::SecretInError | Behaviour::HugeError | Behaviour::DetailFlood => {
            plain(Met::Fails("invalid"))
        }
        Behaviour::SecretInPanic | Behaviour::TrapWhileOthersWait => {
            plain(Met::Ended("so ends [secret]"))
        }
        Behaviour::OversizedRecord => {
            let roomy = limits("memory = \"256MiB\", more = { hostcall_bytes = \"64MiB\" }");
            plain(Met::Ended("hostcall_bytes = \"16MiB\"")).raised(roomy, Met::Reports("\0\0\0"))
        }
        Behaviour::EventFlood => plain(Met::Quarantined("5000 events where poll_events = 256"))
            .raised(limits("more = { poll_events = 65536 }"), Met::GoesOn),
        Behaviour::LargeCheckpoint => {
            plain(Met::Ended("checkpoint of 1048576 bytes; the limit is 65536")).raised(
                limits("more = { checkpoint_bytes = \"1MiB\" }"),
                Met::Reports("1048576 bytes were taken"),
            )
        }
        Behaviour::HugeCheckpoint => {
            let roomy = limits("memory = \"256MiB\", more = { hostcall_bytes = \"256MiB\" }");
            let met = Met::Ended("hostcall_bytes = \"16MiB\"");
            // Then what comes behind that limit meets it.
            Attack::new(behaviour, limits("memory = \"256MiB\""), met)
                .raised(roomy, Met::Ended("checkpoint of 104857600 bytes; the limit is 65536"))
        }
        Behaviour::ForbiddenAddress | Behaviour::ForbiddenHttp => {
            plain(Met::Denied).raised(opened(), Met::Reaches)
        }
        Behaviour::ForbiddenRedirect => {
            let redirecting = |options| Options { server: Server::Redirect, ..options };
            Attack::new(behaviour, redirecting(Options::default()), Met::Denied)
                .raised(redirecting(opened()), Met::Reaches)
        }
        Behaviour::NameRebinding => {
            Attack::new(behaviour, backend("allow = [\"*.localhost:*\"]"), Met::Reports("refused"))
        }
        Behaviour::ForeignSynthetic | Behaviour::Bind | Behaviour::Listen | Behaviour::Udp => {
            plain(Met::Denied)
        }
        Behaviour::OldSockets => plain(Met::Reports("tcp refused")),
        Behaviour::HangingConnection => {
            let with = |text| Options { server: Server::Deaf, ..limits(text) };
            let hasty = with("call = \"20s\", more = { connect_timeout = \"300ms\" }");
            let patient = with("call = \"600ms\", more = { connect_timeout = \"1min\" }");
            Attack {
                limit: Some(Duration::from_millis(300)),
                ..Attack::new(behaviour, hasty, Met::Reports("refused: timeout"))
            }
            .raised(patient, Met::Ended("did not return within 600 ms"))
        }
        Behaviour::ConnectionFlood => plain(Met::Reports("refused after 8"))
            .raised(limits("connections = 1024"), Met::Reports("64 connections")),
        Behaviour::ConnectionChurn => Attack::new(
            behaviour,
            limits("call = \"1min\", more = { connects_per_second = 10 }"),
            Met::Reports(""),
        ),
        Behaviour::LookupFlood => {
            let allow = "allow = [\"*.flood.example:1\"]";
            let more = format!("{allow}\nlimits = {{ more = {{ lookups_max = 65536 }} }}");
            Attack::new(behaviour, backend(allow), Met::Reports("1024 names"))
                .raised(backend(&more), Met::Reports("5000 names"))
        }
        Behaviour::YieldForever
        | Behaviour::OldSleep
        | Behaviour::RequestFlood
        | Behaviour::EndlessBody
        | Behaviour::EndlessRequest => timed(untiring()),
        Behaviour::EndlessResponse => timed(Options { server: Server::Source, ..untiring() }),
        Behaviour::EndlessHttpResponse => {
            let options = Options { server: Server::HttpSource, ..limits("call = \"1min\"") };
            Attack::new(behaviour, options, Met::Ended("limits.memory = \"64MiB\""))
        }
        Behaviour::ReadFiles
        | Behaviour::ParentEscape
        | Behaviour::SymlinkEscape
        | Behaviour::Environment => plain(Met::Reports("nothing")),
        Behaviour::LoopInBackground => {
            let met = Met::Quarantined("computed for 100 ms without yielding");
            Attack::new(behaviour, impatient(), met)
        }
        Behaviour::YieldInBackground | Behaviour::PollStorm | Behaviour::UnknownIds => {
            plain(Met::GoesOn)
        }
        _ => return None,
    })
}

/// What is wrong with a file, or with what a plugin says of itself.
fn by_file(behaviour: Behaviour) -> Result<Option<Attack>> {
    let refused = |file, reason| Attack {
        file: Some(file),
        ..Attack::new(behaviour, Options::default(), Met::Refused(reason))
    };
    let marked = |reason| anyhow::Ok(refused(marked(hostile()?, behaviour)?, reason));
    let with_modules = |count: usize, module: &[u8], reason| {
        let file = (0..count).fold(hostile()?, |file, _| with_module(file, module));
        anyhow::Ok(refused(file, reason))
    };
    let runs = |options| (options, Met::GoesOn);
    let raised = |attack: Attack, (options, met): (Options, Met)| attack.raised(options, met);
    Ok(Some(match behaviour {
        Behaviour::DescribeLoop => marked("without yielding")?,
        Behaviour::DescribeSleep => Attack {
            options: of_files("describe_timeout = \"200ms\""),
            ..marked("no answer within 200ms")?
        },
        Behaviour::DescribeTrap => marked("so ends")?,
        Behaviour::DescribeMemoryBomb => {
            raised(marked("limits.memory")?, runs(limits("memory = \"256MiB\"")))
        }
        Behaviour::FeatureFlood => {
            raised(marked("features_max is 1024")?, runs(of_files("features_max = 65536")))
        }
        Behaviour::SchemaRemote
        | Behaviour::SchemaRecursion
        | Behaviour::SchemaBackreference
        | Behaviour::SchemaHuge => marked("settings schema cannot be used")?,
        // The engine never goes back, whatever the pattern, so it is no reason to refuse the plugin.
        Behaviour::SchemaPattern => Attack { met: Met::GoesOn, ..marked("")? },
        Behaviour::InvalidUtf8 => {
            let broken = vec![0xff; VERSION_TEXT.len()];
            refused(replaced(hostile()?, VERSION_TEXT, &broken)?, "utf-8")
        }
        Behaviour::TableBomb => raised(
            with_modules(1, &table(500_000), "table_elements = 100000")?,
            runs(limits("more = { table_elements = 1000000 }")),
        ),
        Behaviour::InitialMemoryBomb => raised(
            with_modules(1, &memory(60_000), "limits.memory")?,
            runs(limits("memory = \"4GiB\"")),
        ),
        Behaviour::ManyMemories => raised(
            with_modules(4, &memory(1), "memories = 2")?,
            runs(limits("more = { memories = 8 }")),
        ),
        Behaviour::ManyTables => raised(
            with_modules(10, &table(1), "tables = 8")?,
            runs(limits("more = { tables = 64 }")),
        ),
        Behaviour::ManyInstances => raised(
            with_modules(40, &module(&[]), "core_instances = 32")?,
            runs(limits("more = { core_instances = 256 }")),
        ),
        Behaviour::LoopInInstantiation => {
            // loop; br 0; end; end
            let endless = function(&[0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x0b], true);
            refused(with_module(hostile()?, &endless), "without yielding")
        }
        Behaviour::UnknownVersion => refused(
            replaced(hostile()?, "pintle:lock/lock@0.1.0", b"pintle:lock/lock@0.9.0")?,
            "exports pintle:lock/lock in version 0.9.0; this host serves 0.1.x",
        ),
        Behaviour::MissingExport => {
            let (old, new) = ("pintle:plugin/lifecycle@", b"pintle:plugin/lifecyclo@");
            refused(replaced(hostile()?, old, new)?, "does not export pintle:plugin/lifecycle")
        }
        Behaviour::NoCapability => {
            let mut file = hostile()?;
            for name in ["config/config", "registry/registry", "lock/lock", "tracing/tracing"] {
                let (old, new) = (format!("pintle:{name}@"), format!("kintle:{name}@"));
                file = replaced(file, &old, new.as_bytes())?;
            }
            refused(file, "offers no capability")
        }
        Behaviour::WrongType => {
            refused(replaced(hostile()?, "single-writer", b"single-reader")?, "type mismatch")
        }
        Behaviour::UnknownImport => {
            let (old, new) = ("pintle:plugin/host@0.1.0", b"pintle:plugin/gost@0.1.0");
            refused(replaced(hostile()?, old, new)?, "pintle:plugin/gost")
        }
        Behaviour::NotWasm => refused(b"#!/bin/sh\necho hello\n".to_vec(), "not a component"),
        Behaviour::CoreModule => refused(memory(1), "not a component"),
        Behaviour::Truncated => {
            let mut file = hostile()?;
            file.truncate(file.len() / 2);
            refused(file, "not a component")
        }
        Behaviour::Nesting => {
            let file = [hostile()?, nested(COMPONENT.to_vec(), 30)].concat();
            raised(refused(file, "nesting_max = 16"), runs(of_files("nesting_max = 64")))
        }
        Behaviour::DeepNesting => {
            let file = [hostile()?, nested(COMPONENT.to_vec(), 10_000)].concat();
            refused(file, "nesting_max = 16")
        }
        Behaviour::HugeFunction => {
            let file = with_module(hostile()?, &function(&idle(2 << 20), false));
            raised(
                refused(file, "function_bytes = \"1MiB\""),
                runs(of_files("function_bytes = \"7MiB\"")),
            )
        }
        Behaviour::HugeCode => {
            let attack =
                with_modules(6, &function(&idle(900_000), false), "code_bytes = \"4MiB\"")?;
            let attack = Attack { options: of_files("code_bytes = \"4MiB\""), ..attack };
            raised(attack, runs(Options::default()))
        }
        _ => return Ok(None),
    }))
}

/// A function of so many instructions that do nothing.
fn idle(instructions: usize) -> Vec<u8> {
    [vec![0], vec![0x01; instructions], vec![0x0b]].concat()
}
