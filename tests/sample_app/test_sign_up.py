import pytest

from tests.sample_app.server import Sample, until

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("sample sign_up")]


def sign_up(sample: Sample, name: str) -> str:
    email = f"{name.lower()}@example.com"
    sample.press("/people", data={"name": name, "email": email})
    return email


def test_sign_up_sends_a_welcome_over_smtp(sample: Sample) -> None:
    email = sign_up(sample, "Ana")

    job = sample.ended(q=email)
    inbox = sample.page("/inbox")

    assert (job["state"], job["queue"], job["name"]) == ("succeeded", "email", f"Welcome {email}")
    assert job["log"] == [f"Sent to {email}"]
    assert "Welcome to Airfield, Ana" in inbox
    assert f"To: Ana &lt;{email}&gt;" in inbox  # the header, as it arrived


def test_the_person_links_to_the_page_of_the_welcome(sample: Sample) -> None:
    email = sign_up(sample, "Berta")

    job = sample.ended(q=email)

    assert f"/jobs/jobs/{job['id']}" in sample.page("/people")
    assert email in sample.page(f"/jobs/jobs/{job['id']}")


def test_a_sign_up_that_is_rolled_back_sends_nothing(sample: Sample) -> None:
    email = sign_up(sample, "Carla")
    sample.ended(q=email)

    again = sample.client.post("/people", data={"name": "Carla again", "email": email})
    after = sign_up(sample, "Dora")  # enqueued after it: once this one has arrived, nothing is on its way
    sample.ended(q=after)
    inbox = sample.page("/inbox")

    assert again.status_code == 409
    assert f"{email} has signed up already." in again.text
    assert len(sample.jobs(q=email)) == 1
    assert "Welcome to Airfield, Dora" in inbox
    assert "Carla again" not in inbox
    assert inbox.count(f"To: Carla &lt;{email}&gt;") == 1


@pytest.mark.parametrize(
    ("name", "email"),
    [
        ("", "nobody@example.com"),
        ("x" * 81, "nobody@example.com"),
        ("Two\nlines", "nobody@example.com"),
        ("Nobody", "nobody"),
        ("Nobody", "nobody@localhost"),
        ("Nobody", "nobody@example.com\nBcc: all@example.com"),
        ("Nobody", "nobody@exämple.com"),
    ],
)
def test_what_is_no_name_or_address_is_refused_with_a_reason(sample: Sample, name: str, email: str) -> None:
    answer = sample.client.post("/people", data={"name": name, "email": email})

    assert answer.status_code == 422
    assert "Please give" in answer.text
    assert not sample.jobs(q="nobody")


def test_a_name_is_shown_as_text_everywhere(sample: Sample) -> None:
    sample.press("/people", data={"name": "<b>Eve</b> {name}", "email": "eve@example.com"})
    sample.ended(q="eve@example.com")

    for page in ("/people", "/inbox"):
        text = sample.page(page)
        assert "&lt;b&gt;Eve&lt;/b&gt; {name}" in text
        assert "<b>Eve" not in text


def test_a_form_of_another_site_is_refused(sample: Sample) -> None:
    form = {"name": "Mallory", "email": "mallory@example.com"}

    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = sample.client.post("/people", data=form, headers=headers)
        assert answer.status_code == 403

    assert "mallory" not in sample.page("/people")


def test_a_welcome_for_two_people_waits_for_nobody(sample: Sample) -> None:
    names = ["Fay", "Gil", "Hal", "Ida", "Jo"]
    emails = [sign_up(sample, name) for name in names]

    until(lambda: all(f"Welcome to Airfield, {name}" in sample.page("/inbox") for name in names))

    assert [sample.ended(q=email)["state"] for email in emails] == ["succeeded"] * 5
