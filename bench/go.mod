module outrigger.dev/bench

go 1.25
