//! Files that a compiler in a process of its own does not get done with.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use pintle::{BackendState, CompilerProgram, Pintle, config::Put};
use pintle_test_suites::{
    Sandbox,
    hostile::bytes::{function, hostile, module, number, section, with_module},
    within,
};

const VICTIM: &str = "[backends.victim]\nplugin = \"memory\"\nrequired = true\n";

/// How soon a compiler is gone that was ended.
const GONE_MAX: Duration = Duration::from_secs(2);

/// Where the compiler is: a name of its own by which its processes are found.
fn compiler(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("compiler")
}

/// A folder with a plugin that nobody objects to.
fn fresh() -> Result<Sandbox> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let here = std::env::current_exe()?;
    let pintle = here.ancestors().nth(2).context("a folder")?.join("pintle");
    ensure!(pintle.exists(), "{} is not built", pintle.display());
    std::os::unix::fs::symlink(pintle, compiler(&sandbox))?;
    Ok(sandbox)
}

/// The same, with the plugin compiled already.
async fn sandbox() -> Result<Sandbox> {
    let sandbox = fresh()?;
    let host = start(&sandbox, "", VICTIM).await?;
    serves(&host).await?;
    within("the shutdown", host.shutdown()).await?;
    Ok(sandbox)
}

/// A host that has files compiled as `pintle serve` has.
async fn start(sandbox: &Sandbox, limits: &str, backends: &str) -> Result<Pintle> {
    let cache = sandbox.path().join("cache").display().to_string();
    let plugins = format!("[plugins]\ncache_dir = {cache:?}\n[plugins.limits]\n{limits}\n");
    let settings = sandbox.settings(&format!("{plugins}{backends}"))?;
    let program = CompilerProgram {
        program: compiler(sandbox),
        arguments: vec!["compile".into()],
        environment: vec![("MIMALLOC_ARENA_EAGER_COMMIT".into(), "0".into())],
    };
    let starting = Pintle::builder().settings(settings).compiler(program).start();
    Ok(within("the start", starting).await??)
}

/// Both, with a file for the culprit.
async fn with_culprit(sandbox: &Sandbox, limits: &str) -> Result<Pintle> {
    let data_dir = sandbox.path().join("culprit").display().to_string();
    let culprit = format!("[backends.culprit]\nplugin = \"hostile\"\ndata_dir = {data_dir:?}\n");
    start(sandbox, limits, &format!("{VICTIM}{culprit}")).await
}

async fn serves(pintle: &Pintle) -> Result<()> {
    within("a put", pintle.config("victim")?.put(Put::new("k", "v"))).await??;
    Ok(())
}

/// Whether a process of this compiler is there.
fn is_compiling(sandbox: &Sandbox) -> Result<bool> {
    let compiler = compiler(sandbox).display().to_string();
    let is_it = |process: fs::DirEntry| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).next() == Some(compiler.as_bytes())
    };
    Ok(fs::read_dir("/proc")?.filter_map(Result::ok).any(is_it))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_takes_too_long_to_compile_is_named_and_its_compiler_ended() -> Result<()> {
    /// One function is compiled by one thread, however many there are.
    const FUNCTION_BYTES: usize = 3 << 20;
    const LOCALS: u8 = 100;
    /// block; local.get 0; br_if 0; local.get 0; local.get 0; i32.mul; local.set 0; end: what each local
    /// is after it depends on the way there, which makes the compiler's work grow faster than the code.
    const SQUARE_MAYBE: [u8; 14] =
        [0x02, 0x40, 0x20, 0, 0x0d, 0, 0x20, 0, 0x20, 0, 0x6c, 0x21, 0, 0x0b];
    let sandbox = sandbox().await?;
    let squares = (0..LOCALS).cycle().take(FUNCTION_BYTES / SQUARE_MAYBE.len()).flat_map(|local| {
        let mut square = SQUARE_MAYBE;
        for place in [3, 7, 9, 12] {
            square[place] = local;
        }
        square
    });
    // The locals are of i32.
    let body = [1, LOCALS, 0x7f].into_iter().chain(squares).chain([0x0b]).collect::<Vec<u8>>();
    let file = with_module(hostile()?, &function(&body, false));
    fs::write(sandbox.plugins_dir().join("hostile.wasm"), file)?;
    let limits = "compile_timeout = \"1s\"\nfunction_bytes = \"4MiB\"\ncompile_memory = \"8GiB\"";
    let pintle = with_culprit(&sandbox, limits).await?;
    let status = pintle.backend("culprit")?;
    ensure!(status.state == BackendState::Restarting, "{:?}: {}", status.state, status.reason);
    let told = "hostile.wasm: compiling it takes longer than compile_timeout = \"1s\"";
    ensure!(status.reason.contains(told), "{}", status.reason);
    serves(&pintle).await?;
    within("the shutdown", pintle.shutdown()).await?;
    drop(pintle);
    let gone = tokio::time::timeout(Duration::from_secs(1) + GONE_MAX, async {
        while is_compiling(&sandbox)? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    });
    gone.await.context("the compiler was not ended")?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_takes_too_much_memory_to_compile_is_named_with_the_limit() -> Result<()> {
    /// The compiler has the file, what it makes of it, and what it hands over.
    const DATA_BYTES: usize = 120 << 20;
    let sandbox = sandbox().await?;
    // One segment that nothing refers to.
    let data = [&[1, 1][..], &number(DATA_BYTES), &vec![0; DATA_BYTES]].concat();
    let file = with_module(hostile()?, &module(&[section(11, &data)]));
    fs::write(sandbox.plugins_dir().join("hostile.wasm"), file)?;
    let pintle = with_culprit(&sandbox, "compile_memory = \"256MiB\"").await?;
    let status = pintle.backend("culprit")?;
    ensure!(status.state == BackendState::Refused, "{:?}: {}", status.state, status.reason);
    let told = "compile_memory = \"256MiB\" is too little for it";
    let names = status.reason.contains("hostile.wasm") && status.reason.contains(told);
    ensure!(names, "{}", status.reason);
    serves(&pintle).await?;
    within("the shutdown", pintle.shutdown()).await?;
    // With more it serves: nothing else was in its way.
    let pintle = with_culprit(&sandbox, "compile_memory = \"2GiB\"").await?;
    let status = pintle.backend("culprit")?;
    ensure!(status.state == BackendState::Serving, "{:?}: {}", status.state, status.reason);
    serves(&pintle).await?;
    within("the shutdown", pintle.shutdown()).await?;
    Ok(())
}
