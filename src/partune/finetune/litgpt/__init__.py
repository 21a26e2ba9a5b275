"""Train and score trials through LitGPT's command line: settings become its arguments, each step a process."""
