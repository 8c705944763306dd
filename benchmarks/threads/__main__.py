from benchmarks.threads.rates import main

main()  # a spawned process finds what it runs in a module of its name, not in __main__
