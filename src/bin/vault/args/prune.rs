//! The arguments of `prune`.

use std::str::FromStr;

use clap::Args;
use vault::forget::Age;
use vault::prune::Limit;

use super::values::{Level, parse_size};

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only show what would be deleted
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How much may stay unused in packs that hold something else: `5%` of what is used, `10G`, or `unlimited`
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    pub max_unused: MaxUnused,
    /// Pack anew at most so many bytes of packs
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_repack_size: Option<u64>,
    /// Keep what was forgotten less than so long ago, as `7d`, so that `undo` can still bring it back; 0 for none of it
    #[arg(long, value_name = "AGE", default_value = "0", value_parser = parse_grace)]
    pub grace: Age,
    /// Go on though a snapshot is missed or part of the index, no snapshot is left, or more than half of all bytes goes
    #[arg(long)]
    pub force: bool,
    /// First remove what this session left, whose machine is gone for good
    #[arg(long, value_name = "SESSION")]
    pub ended: Vec<String>,
    /// How strongly what is packed anew is compressed, but for frames that go whole into the new pack: `off`, `fast`, `default`, `best`, or a level from 1 to 19
    #[arg(long, value_name = "LEVEL", default_value = "default")]
    pub compression: Level,
}

/// How much may stay unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxUnused(pub Limit);

impl Default for MaxUnused {
    fn default() -> Self {
        Self(Limit::PerMille(50))
    }
}

impl FromStr for MaxUnused {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self(Limit::Unlimited));
        }
        let Some(percent) = text.strip_suffix('%') else {
            return parse_size(text).map(|bytes| Self(Limit::Bytes(bytes)));
        };
        match percent.parse::<f64>() {
            Ok(percent) if (0.0..=10_000.0).contains(&percent) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is from 0 to 100,000"
                )]
                let share = (percent * 10.0).round() as u32;
                Ok(Self(Limit::PerMille(share)))
            }
            _ => Err("it is a percentage of what is used, a size, or unlimited".to_owned()),
        }
    }
}

fn parse_grace(text: &str) -> Result<Age, String> {
    if text == "0" { Ok(Age::default()) } else { text.parse() }
}
