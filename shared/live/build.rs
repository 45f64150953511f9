//! Lists the files of the page, so that the server has each file that is in the folder.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name| env::var(name).map_err(io::Error::other);
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("page");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut list = String::from("&[\n");
    for name in names.iter().filter(|name| name.ends_with(".css") || name.ends_with(".js")) {
        let file = folder.join(name);
        // Writing to a text cannot fail.
        let _ = writeln!(list, "    ({name:?}, include_str!({file:?})),");
    }
    list.push(']');
    fs::write(Path::new(&variable("OUT_DIR")?).join("files.rs"), list)?;
    println!("cargo::rerun-if-changed=page");
    Ok(())
}
