from gradtts_robust.study import doctor


def test_this_machine_has_what_is_needed():
    found = {finding.name: finding for finding in doctor.examine()}
    assert set(found) == {"python", "torch and torchaudio", "processor", "GPU", "espeak-ng", "resemblyzer", "ecapa", "base", "vocoder",
                          "disk", "memory"}
    assert all(finding.ok for finding in found.values() if finding.needed), found
    assert all(finding.text and "\n" not in finding.text for finding in found.values())


def test_a_look_that_fails_is_a_finding_of_one_line(monkeypatch):
    def broken():
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr(doctor, "_torch", broken)
    finding = next(one for one in doctor.examine() if one.name == "torch and torchaudio")
    assert not finding.ok and finding.needed and finding.text == "RuntimeError: operator torchvision::nms does not exist"
