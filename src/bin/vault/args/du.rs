//! The arguments of `du`.

use clap::Args;

use crate::select::Selector;

/// Arguments of `du`.
#[derive(Debug, Args)]
pub struct DuArgs {
    /// What to look at, and all of it together [default: each snapshot, and what it alone holds]
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub selectors: Vec<Selector>,
    /// Show too the folders in it, to so many levels
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        requires = "selectors"
    )]
    pub depth: usize,
}
