//! What the compiler says about mistakes that are easy to make with the library: its text leads on.
//!
//! Each program here is compiled against the library that cargo built for these tests.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use crate::support::process::{Scratch, output};

/// Names that the programs use, and a handler.
const BEFORE: &str = "
    use std::io::Result;
    use std::thread;
    use turnwheel::codec::Lines;
    use turnwheel::{Address, Context, DatagramContext, DatagramHandler, Echo, Framed, Group, Handler, Reactor};

    pub struct Datagrams;

    impl DatagramHandler for Datagrams {
        fn on_datagram(&mut self, _: &mut DatagramContext<'_>, _: &Address, _: &[u8]) {}
    }
";

/// Returns the library as cargo built it last, which was for this run if it needed building.
fn library() -> PathBuf {
    let here = env::current_exe().unwrap();
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libturnwheel-") && name.ends_with(".rlib")
    };
    let beside = fs::read_dir(here.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let newest = beside.filter(is_library).max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    newest.expect("the library is beside its tests")
}

/// Compiles a program. Returns the errors, which are empty if it compiles, or `None` if there is no compiler.
fn errors(program: &str) -> Option<String> {
    let (scratch, library) = (Scratch::new(), library());
    let source = scratch.0.join("program.rs");
    fs::write(&source, format!("{BEFORE}{program}")).unwrap();
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--cap-lints=allow", "--out-dir"]);
    rustc.arg(&scratch.0).arg("--extern").arg(format!("turnwheel={}", library.display()));
    rustc.arg("-L").arg(format!("dependency={}", library.parent().unwrap().display())).arg(source);
    match output(&mut rustc) {
        Err(error) => {
            println!("skipped: cannot run {rustc:?}: {error}");
            None
        }
        Ok(done) => {
            let said = String::from_utf8(done.stderr).unwrap();
            assert_eq!(done.status.success(), said.is_empty(), "{said}");
            Some(said)
        }
    }
}

/// The program is refused. `first` begins the text, and each of `notes` is in it.
fn refused(program: &str, first: &str, notes: &[&str]) {
    let Some(said) = errors(program) else { return };
    assert!(said.starts_with(&format!("error[E0277]: {first}")), "not {first:?}:\n{said}");
    for note in notes {
        assert!(said.contains(&format!("= note: {note}")), "no note {note:?}:\n{said}");
    }
}

#[test]
fn a_key_given_to_listen_is_told_of_listen_on() {
    refused(
        r#"pub fn serve(reactor: &mut Reactor) -> Result<()> {
            let echo = reactor.add(Echo)?;
            reactor.listen("127.0.0.1:0", echo)?;
            reactor.run()
        }"#,
        "`Key<Echo>` is not a handler of connections",
        &["the `Key` of a handler that was added before is passed to `listen_on(address, key)`, not to `listen`"],
    );
}

#[test]
fn a_key_given_to_bind_is_told_of_bind_on() {
    refused(
        r#"pub fn serve(reactor: &mut Reactor) -> Result<()> {
            let key = reactor.add_datagrams(Datagrams);
            reactor.bind("127.0.0.1:0", key)?;
            reactor.run()
        }"#,
        "`Key<Datagrams>` is not a handler of datagrams",
        &["the `Key` of a handler that was added before is passed to `bind_on(address, key)`, not to `bind`"],
    );
}

#[test]
fn a_handler_of_the_other_kind_is_told_where_it_belongs() {
    refused(
        r#"pub fn serve(reactor: &mut Reactor) { let _ = reactor.listen("127.0.0.1:0", Datagrams); }"#,
        "`Datagrams` is not a handler of connections",
        &["a `DatagramHandler` is passed to `bind`, or added with `add_datagrams`"],
    );
    refused(
        r#"struct Stream;
        impl Handler for Stream {
            type State = ();
            fn on_open(&mut self, _: &mut Context<'_>) {}
            fn on_data(&mut self, _: &mut Context<'_>, _: &mut (), _: &[u8]) {}
        }
        pub fn serve(reactor: &mut Reactor) { let _ = reactor.bind("127.0.0.1:0", Stream); }"#,
        "`Stream` is not a handler of datagrams",
        &["a `Handler`, which serves connections, is passed to `listen`, or added with `add`"],
    );
}

#[test]
fn a_handler_in_the_place_of_a_codec_is_told_their_order() {
    refused(
        "pub fn lines() -> Result<()> { Framed::new(Echo, Lines::lf(80)?); Ok(()) }",
        "`Echo` is not a framing",
        &["the codec comes first: `Framed::new(codec, handler)`"],
    );
    refused(
        r#"pub fn lines() { Framed::new("lines", Echo); }"#,
        "`&str` is not a framing",
        &[r#"a text such as "lines" is parsed first: see the module `codec`"#],
    );
}

#[test]
fn a_reactor_moved_to_a_thread_is_to_be_made_there() {
    refused(
        "pub fn serve(mut reactor: Reactor) { thread::spawn(move || reactor.run()); }",
        "`(dyn turnwheel::reactor::MakeTheReactorOnItsThread + 'static)` cannot be sent between threads safely",
        &[],
    );
}

#[test]
fn a_context_used_in_a_thread_is_told_of_the_handle() {
    refused(
        r#"pub fn answer(cx: &mut Context<'_>) { thread::scope(|s| { s.spawn(|| cx.send("done")); }); }"#,
        "`(dyn turnwheel::handler::net::GiveAHandleToOtherThreads + 'static)` cannot be sent between threads safely",
        &[],
    );
}

#[test]
fn a_loop_over_connections_or_members_may_send() {
    let program = r#"pub fn greet(cx: &mut Context<'_>, group: Group) {
        for id in cx.connections() {
            cx.send_to(id, "hello");
        }
        for id in cx.members(group) {
            cx.send_to(id, "hello");
        }
    }"#;
    assert_eq!(errors(program).unwrap_or_default(), "");
}
