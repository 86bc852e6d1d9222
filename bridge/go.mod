module outrigger.dev/bridge

go 1.25
