//! `beeway status`: asks the agent and shows what it says.
