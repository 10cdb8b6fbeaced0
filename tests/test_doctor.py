from bench import doctor


def test_the_doctor_names_versions_cores_data_and_tracking(tmp_path):
    text = doctor.report(tmp_path / "results", str(tmp_path), None)
    assert "python 3." in text
    assert "cores" in text
    assert f"root {tmp_path}" in text
    assert "cora: missing" in text
    assert "run `gkdbench prepare" in text or "gkdbench prepare cora" in text
    assert "synthetic: ready" in text
    assert "made by the first run" in text


def test_the_doctor_changes_nothing(tmp_path):
    doctor.report(tmp_path / "results", str(tmp_path / "data"), None)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_way_to_get_it():
    assert doctor._version("no-such-thing") == "no-such-thing MISSING: pip install no-such-thing"
