"use strict";
// Follows a run that has not finished: asks for the main part of its page again, and puts in place what is different.
(function () {
    const LONGEST_PAUSE = 30000;
    let timer = null;
    let failures = 0;
    let took = 0;
    let paused = false;
    let asking = false;
    let tag = "";
    let status = "";
    let root, note, announced;

    function main() {
        return document.getElementById("ss-main");
    }

    function pause() {
        return Number(main().dataset.refreshMs) || 0;
    }

    function say(text, off) {
        note.firstElementChild.textContent = text;
        note.classList.toggle("ss-off", Boolean(off));
    }

    // What has changed is shown; of all that only another status is told to who listens.
    function announce() {
        if (main().dataset.status !== status) {
            status = main().dataset.status;
            announced.textContent = status;
        }
    }

    async function ask() {
        const headers = { "X-Requested-With": "XMLHttpRequest" };
        if (tag) {
            headers["If-None-Match"] = tag;
        }
        const response = await fetch(root.dataset.live, { credentials: "same-origin", cache: "no-store", headers: headers });
        if (response.status === 304) {
            return main();
        }
        if (response.redirected || response.status === 403 || response.status === 404) {
            return null;
        }
        if (!response.ok) {
            throw new Error(String(response.status));
        }
        const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("ss-main");
        tag = fresh ? response.headers.get("ETag") || "" : "";
        return fresh;
    }

    async function tick() {
        timer = null;
        if (paused || document.hidden || asking) {
            return; // going on is what asks again
        }
        asking = true;
        const began = performance.now();
        try {
            const fresh = await ask();
            if (fresh === null) {
                end(note.dataset.lost);
                return;
            }
            failures = 0;
            if (!paused) {
                show(fresh);
            }
        } catch (error) {
            failures += 1;
        } finally {
            asking = false;
            took = performance.now() - began;
        }
        schedule();
    }

    function show(fresh) {
        if (fresh !== main()) {
            window.stackstateMorph(main(), document.adoptNode(fresh));
            document.dispatchEvent(new CustomEvent("ss:refreshed"));
        }
        announce();
        say(note.dataset.following);
    }

    function end(text) {
        clearTimeout(timer);
        timer = null;
        root = null;
        say(text, true);
        note.querySelector("button").remove();
    }

    function schedule() {
        clearTimeout(timer);
        if (!root) {
            return;
        }
        if (pause() === 0) {
            end(note.dataset.ended);
            return;
        }
        // A page that is slow to answer is asked for less often.
        const wait = Math.min(LONGEST_PAUSE, Math.max(pause() * Math.pow(2, failures), failures ? 0 : 10 * took));
        if (failures && !paused) {
            say(note.dataset.asleep.replace("%(seconds)s", String(Math.round(wait / 1000))), true);
        }
        if (!paused && !document.hidden) {
            timer = setTimeout(tick, wait);
        }
    }

    function toggle(button) {
        paused = !paused;
        button.textContent = paused ? note.dataset.go : note.dataset.stop;
        say(paused ? note.dataset.paused : note.dataset.following, paused);
        goOn();
    }

    // Asks at once: who comes back to the page, or goes on, wants to see how it is now.
    function goOn() {
        clearTimeout(timer);
        if (root && !paused && !document.hidden) {
            tick();
        }
    }

    function start() {
        root = document.getElementById("ss-run");
        note = document.getElementById("ss-live");
        announced = document.getElementById("ss-status");
        if (!root || !note || !main() || pause() === 0) {
            root = null;
            return;
        }
        const button = note.querySelector("button");
        button.textContent = note.dataset.stop;
        button.addEventListener("click", function () { toggle(button); });
        status = main().dataset.status;
        note.hidden = false;
        say(note.dataset.following);
        schedule();
    }

    document.addEventListener("visibilitychange", goOn);
    // A page kept by the browser's history goes on where it was.
    window.addEventListener("pagehide", function () { clearTimeout(timer); });
    window.addEventListener("pageshow", function (event) {
        if (event.persisted) {
            goOn();
        }
    });
    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
