"""What the tests of the simulate stage's engines share about configs that are refused."""


def refused_in_one_line(main, arguments: list[str], folder, said: str, capsys) -> None:
    """Check that the stage ends with 2 and one line that holds `said`, and leaves nothing in its folder."""
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error and error.startswith("hpcdiff simulate: error: ")
    assert not list(folder.glob("snapshot*")) and not (folder / "halos.hdf5").exists()
