"""``make gpu``: build, tests, sanitizers and benchmarks on a GPU. Free of torch: the build comes before any import."""
