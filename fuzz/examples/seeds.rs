//! Writes the first inputs of each target into a folder of its name: `seeds FOLDER`.

use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(std::path::PathBuf::from).unwrap_or_else(|| "corpus".into());
    for target in &vault_fuzz::targets::TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
