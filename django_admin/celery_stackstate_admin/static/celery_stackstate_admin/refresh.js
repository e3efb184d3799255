"use strict";
// Follows a run that has not finished: fetches the main part of its page again and puts it in place.
(function () {
    const LONGEST_PAUSE = 30000;
    let timer = null;
    let failures = 0;
    let paused = false;
    let note = null;

    function pause(main) {
        return Number(main.dataset.refreshMs) || 0;
    }

    function say(text, off) {
        note.firstChild.textContent = text;
        note.classList.toggle("ss-off", Boolean(off));
    }

    // A reader who has marked text, or looks at another tab, is left alone.
    function busy(root) {
        const selection = document.getSelection();
        return document.hidden || paused ||
            Boolean(selection && !selection.isCollapsed && root.contains(selection.anchorNode));
    }

    function remember(root) {
        const open = new Map();
        root.querySelectorAll("details[id]").forEach(function (one) { open.set(one.id, one.open); });
        const scrolled = Array.from(root.querySelectorAll(".ss-scroll, .ss-code"), function (one) { return one.scrollTop; });
        const focused = root.contains(document.activeElement) && document.activeElement.closest("details[id]");
        return { open: open, scrolled: scrolled, focused: focused ? focused.id : null };
    }

    function restore(root, before) {
        root.querySelectorAll("details[id]").forEach(function (one) {
            if (before.open.has(one.id)) {
                one.open = before.open.get(one.id);
            }
        });
        const now = root.querySelectorAll(".ss-scroll, .ss-code");
        if (now.length === before.scrolled.length) {
            now.forEach(function (one, index) { one.scrollTop = before.scrolled[index]; });
        }
        const again = before.focused && document.getElementById(before.focused);
        if (again) {
            again.querySelector("summary").focus({ preventScroll: true });
        }
    }

    async function load(address) {
        const response = await fetch(address, {
            credentials: "same-origin",
            cache: "no-store",
            headers: { "X-Requested-With": "XMLHttpRequest" },
        });
        if (response.redirected || response.status === 403 || response.status === 404) {
            return null;
        }
        if (!response.ok) {
            throw new Error(String(response.status));
        }
        return new DOMParser().parseFromString(await response.text(), "text/html").getElementById("ss-main");
    }

    async function tick(root) {
        let main = document.getElementById("ss-main");
        if (!busy(root)) {
            try {
                const fresh = await load(root.dataset.live);
                if (fresh === null) {
                    say("Not following any more: reload the page.", true);
                    note.querySelector("button").remove();
                    return;
                }
                failures = 0;
                if (!busy(root)) {
                    const before = remember(root);
                    main.replaceWith(document.adoptNode(fresh));
                    restore(root, before);
                    main = fresh;
                    say("Following this run");
                }
            } catch (error) {
                failures += 1;
                say("No answer; trying again", true);
            }
        }
        schedule(root, main);
    }

    function schedule(root, main) {
        const wait = pause(main);
        if (wait === 0) {
            note.remove();
            return;
        }
        timer = setTimeout(tick, Math.min(LONGEST_PAUSE, wait * Math.pow(2, failures)), root);
    }

    function start() {
        const root = document.getElementById("ss-run");
        const main = document.getElementById("ss-main");
        if (!root || !main || pause(main) === 0) {
            return;
        }
        note = document.createElement("p");
        note.className = "ss-live";
        note.appendChild(document.createElement("span"));
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = "Pause";
        button.addEventListener("click", function () {
            paused = !paused;
            button.textContent = paused ? "Go on" : "Pause";
            say(paused ? "Paused" : "Following this run", paused);
        });
        note.appendChild(button);
        say("Following this run");
        root.before(note);
        schedule(root, main);
    }

    // A page kept by the browser's history goes on where it was.
    window.addEventListener("pagehide", function () { clearTimeout(timer); });
    window.addEventListener("pageshow", function (event) {
        const root = document.getElementById("ss-run");
        if (event.persisted && root && note) {
            schedule(root, document.getElementById("ss-main"));
        }
    });
    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
})();
