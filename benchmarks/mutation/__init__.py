"""The parts of the mutation tester: what stands where in a source, its mutants, which tests reach a line, a mutant's trial."""
