fn main() -> std::process::ExitCode {
    parley_relay::main()
}
